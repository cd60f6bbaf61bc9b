-- What was there before a user was is not unread for them: their first mark stands at the head, from the transaction
-- that makes the user. Without one their reads would walk a log of which they have read nothing. By a trigger, so that
-- it holds for rows written by hand as well. Users who are there get none: it would take events from them.
create trigger users_begin_marks after insert on users
begin
    insert into read_marks (user_id, position, at)
    select new.id, head.position, cast(unixepoch('subsec') * 1000 as integer)
    from (select max(floor, coalesce((select max(position) from events), 0)) as position from log_state) head
    where head.position > 0
    on conflict do nothing;
end;

-- What an earlier migration demands goes on being demanded.
insert into compatibility (version, compatible_from) select 9, max(compatible_from) from compatibility;
