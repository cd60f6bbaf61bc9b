-- What was there before a user was is not unread for them: their first mark stands at the head, from the transaction
-- that makes the user. Without one their reads would walk a log of which they have read nothing. By a trigger, so that
-- it holds for rows written by hand as well. Users who are there get none: it would take events from them.
--
-- The settings keep a plan that was made while the log was empty from scanning it once it is large, and from being compiled
-- for each row, since it looks expensive then.
create function carillon_begin_marks() returns trigger
language plpgsql
set enable_seqscan to off
set jit to off
as $$
begin
    insert into read_marks (user_id, position, at)
    select new.id, head.position, carillon_now()
    from (
        select greatest(s.floor, (select max(e.position) from events e)) as position from log_state s
    ) head
    where head.position > 0
    on conflict do nothing;
    return null;
end
$$;
create trigger users_begin_marks after insert on users
    for each row execute function carillon_begin_marks();

-- Older programs notice nothing of it. What an earlier migration demands goes on being demanded.
insert into compatibility (version, compatible_from) select 17, max(compatible_from) from compatibility;
