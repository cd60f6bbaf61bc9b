-- A million events, as they would be after twelve days: a fifth for everyone, two fifths for one user, the rest for a
-- few users, for a topic, or for users and topics. Chosen by hashes, so that it is the same each time.

create function pick(number bigint, salt bigint, of bigint) returns bigint language sql immutable as $$
    select (hashint8extended(number, salt) & 9223372036854775807) % of
$$;

insert into events (
    position, id, type, priority, audience, topic, data, created_at, expires_at, keep_after_read, retracted_at, publisher
)
select
    g, md5(g::text)::uuid, 'type.' || pick(g, 1, 20),
    case when level < 2 then 3 when level < 5 then 2 when level < 8 then 0 else 1 end,
    case when kind < 20 then 0 when kind < 70 or kind >= 90 then 1 else 2 end,
    case when kind >= 70 and kind < 90 then 'topic-' || pick(g, 5, 1000) end,
    '"' || repeat('x', 100) || '"', began + g * 1000,
    case when pick(g, 6, 100) < 4 then began + 1000000000 + (pick(g, 7, 2) * 2 - 1) * 500000000 end,
    case when pick(g, 8, 100) < 5 then 3600000 end,
    case when pick(g, 9, 100) < 1 then began + g * 1000 + 5000 end,
    pick(g, 10, 50) + 1
from (
    select g, pick(g, 2, 100) as kind, pick(g, 3, 100) as level, carillon_now() - 1000000000 as began
    from generate_series(1::bigint, 1000000) g
) drawn
order by g;
select setval('events_position', 1000000);

-- 1, 3 or 2 users, whose numbers may happen to be the same.
insert into event_users (user_id, position, priority)
select distinct pick(e.position, 20 + nth, 10000) + 1, e.position, nullif(e.priority, 1)
from (select position, priority, pick(position, 2, 100) as kind from events where audience = 1) e
cross join generate_series(1, 3) nth
where nth <= case when e.kind < 60 then 1 when e.kind < 70 then 3 else 2 end;

insert into event_topics (topic, position, priority)
select topic, position, nullif(priority, 1) from events where audience = 2
union all
select distinct 'topic-' || pick(e.position, 30 + nth, 1000), e.position, nullif(e.priority, 1)
from events e cross join generate_series(1, 2) nth
where e.audience = 1 and pick(e.position, 2, 100) >= 90;

-- Users to 3,000 have read nearly everything, those to 6,000 the older half, in three steps; the others have no mark.
insert into read_marks (user_id, position, at, number)
select u, 999000 + pick(u, 40, 500), carillon_now(), 1 from generate_series(1, 3000) u
union all
select u, step * 160000 + pick(u, 41, 1000), carillon_now(), step
from generate_series(3001, 6000) u cross join generate_series(1, 3) step;
insert into last_read_up_to (user_id, number) select user_id, max(number) from read_marks group by user_id;

-- What they have said about single events of theirs, and, of the first, about those for everyone.
insert into receipts (user_id, position, is_read, at)
select user_id, position, pick(position, 50, 3) > 0, carillon_now()
from event_users where user_id <= 8000 and pick(position + user_id, 51, 5) = 0
union all
select u, position, pick(position + u, 52, 3) > 0, carillon_now()
from events cross join generate_series(1, 200) u
where audience = 0 and pick(position + u, 53, 500) = 0;
-- The newest event for everyone has been read by all.
insert into receipts (user_id, position, is_read, at)
select u, (select max(position) from events where audience = 0 and retracted_at is null and keep_after_read is null), true, carillon_now()
from generate_series(1, 10000) u
on conflict do nothing;

insert into users (name, password_hash, role, created_at)
select 'user-' || u, '', 'listener', carillon_now() from generate_series(1, 10000) u;
insert into sessions (secret, user_id, created_at, expires_at)
select sha256(('session-' || s)::bytea), s % 10000 + 1, carillon_now() - 1000000000,
    carillon_now() + (pick(s, 60, 20) - 1) * 86400000 * 10
from generate_series(1, 20000) s;
insert into tokens (user_id, name, secret, scopes, created_at)
select t % 10000 + 1, 'token', sha256(('token-' || t)::bytea), 'listen', carillon_now() from generate_series(1, 20000) t;
insert into endings (secret, at)
select sha256(('ending-' || e)::bytea), carillon_now() - 3600000 + e * 50 from generate_series(1, 50000) e;
