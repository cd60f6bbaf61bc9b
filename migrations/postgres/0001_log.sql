-- The log. All times are milliseconds since the Unix epoch, by this database's clock.

create function carillon_now() returns bigint language sql volatile as $$
    select floor(extract(epoch from clock_timestamp()) * 1000)::bigint
$$;

create function carillon_new_epoch() returns text language sql volatile as $$
    select string_agg(substr('abcdefghijklmnopqrstuvwxyz0123456789', 1 + floor(random() * 36)::int, 1), '')
    from generate_series(1, 8)
$$;

-- One row. Everything at or below floor was removed by retention, so the head never falls below it.
create table log_state (
    singleton boolean primary key default true check (singleton),
    epoch text not null,
    floor bigint not null
);
insert into log_state (epoch, floor) values (carillon_new_epoch(), 0);

-- CACHE must stay 1: a connection that keeps numbers back would hand them out after later ones were committed.
create sequence events_position as bigint cache 1;

create table events (
    position bigint primary key,
    id uuid not null unique,
    type text not null,
    priority smallint not null,
    -- 0 everyone, 1 the users in event_users, 2 the topic.
    audience smallint not null check (audience between 0 and 2),
    topic text check ((topic is not null) = (audience = 2)),
    -- The publisher's JSON as it was sent; jsonb would change it.
    data text not null,
    created_at bigint not null,
    expires_at bigint,
    keep_after_read bigint,
    retracted_at bigint,
    publisher bigint not null,
    idempotency_key text,
    idempotency_index int,
    unique (publisher, idempotency_key, idempotency_index)
);
alter sequence events_position owned by events.position;
create index events_for_everyone on events (position) where audience = 0;
create index events_for_topics on events (topic, position) where audience = 2;

create table event_users (
    user_id bigint not null,
    position bigint not null,
    primary key (user_id, position)
);
create index event_users_position on event_users (position);

-- What a user said about single events; it outweighs the marks.
create table receipts (
    user_id bigint not null,
    position bigint not null,
    is_read boolean not null,
    at bigint not null,
    primary key (user_id, position)
);
create index receipts_position on receipts (position);

-- "Read up to here". Each row lies above the user's rows before it, so the lowest one at or above an event is
-- the one that read it first.
create table read_marks (
    user_id bigint not null,
    position bigint not null,
    at bigint not null,
    primary key (user_id, position)
);
create index read_marks_position on read_marks (position);

-- Appends events in the order of the arrays and gives one row for each, in that order. The lock is held until
-- the commit is visible, so positions become visible in the order in which they are drawn.
--
-- The settings keep a plan that was made while the table was small from scanning it once it is large.
create function carillon_append(
    ids uuid[],
    types text[],
    priorities smallint[],
    audiences smallint[],
    topics text[],
    payloads text[],
    ends_at bigint[],
    ends_in bigint[],
    keeps bigint[],
    publishers bigint[],
    keys text[],
    key_indexes int[],
    recipients bigint[],
    recipient_ordinals bigint[]
) returns table (
    previous bigint, "position" bigint, id uuid, created_at bigint, expires_at bigint, is_repeat boolean
)
language plpgsql
set enable_seqscan to off
set plan_cache_mode to force_generic_plan
set jit to off
as $$
#variable_conflict use_column
declare
    committed_at bigint;
    head bigint;
    drawn_up_to bigint;
begin
    perform pg_advisory_xact_lock(7163384699738779502);
    committed_at := carillon_now();
    select greatest(s.floor, (select max(e.position) from events e)) into strict head
        from log_state s where s.singleton;

    -- A database restored from copied tables may have a sequence that stands below its events.
    select case when q.is_called then q.last_value else q.last_value - 1 end into drawn_up_to from events_position q;
    if drawn_up_to < head then
        perform setval('events_position', head);
    end if;

    return query
    with given as materialized (
        -- The order is made below nextval, so that positions rise with it.
        select nextval('events_position') as position, g.*
        from (
            select *
            from unnest(
                ids, types, priorities, audiences, topics, payloads, ends_at, ends_in, keeps, publishers, keys,
                key_indexes
            ) with ordinality as u(
                id, type, priority, audience, topic, data, ends_at, ends_in, keep_after_read, publisher,
                idempotency_key, idempotency_index, ordinal
            )
            order by u.ordinal
        ) g
    ),
    inserted as (
        insert into events as e (
            position, id, type, priority, audience, topic, data, created_at, expires_at, keep_after_read,
            publisher, idempotency_key, idempotency_index
        )
        select
            g.position, g.id, g.type, g.priority, g.audience, g.topic, g.data, committed_at,
            coalesce(g.ends_at, committed_at + g.ends_in), g.keep_after_read, g.publisher, g.idempotency_key,
            g.idempotency_index
        from given g
        order by g.ordinal
        on conflict (publisher, idempotency_key, idempotency_index) do nothing
        returning
            e.position, e.id, e.created_at, e.expires_at, e.publisher, e.idempotency_key, e.idempotency_index
    ),
    addressed as (
        insert into event_users (user_id, position)
        select r.user_id, g.position
        from unnest(recipients, recipient_ordinals) as r(user_id, ordinal)
        join given g on g.ordinal = r.ordinal
        join inserted i on i.position = g.position
    ),
    outcome as (
        select g.ordinal, i.position, i.id, i.created_at, i.expires_at, false as is_repeat
        from given g
        join inserted i on i.position = g.position
        union all
        -- A repeat of what an earlier append wrote, or of what this one did.
        select g.ordinal, f.position, f.id, f.created_at, f.expires_at, true
        from given g
        cross join lateral (
            select e.position, e.id, e.created_at, e.expires_at
            from events e
            where e.publisher = g.publisher
                and e.idempotency_key = g.idempotency_key
                and e.idempotency_index = g.idempotency_index
            union all
            select i.position, i.id, i.created_at, i.expires_at
            from inserted i
            where i.publisher = g.publisher
                and i.idempotency_key = g.idempotency_key
                and i.idempotency_index = g.idempotency_index
        ) f
        where g.idempotency_key is not null and f.position <> g.position
    )
    select head, o.position, o.id, o.created_at, o.expires_at, o.is_repeat
    from outcome o
    order by o.ordinal;
end
$$;
