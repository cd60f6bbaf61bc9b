-- Of these keys, the places (from 1) of those that an event in the log or an earlier place has already.
--
-- The settings keep a plan that was made while the table was small from scanning it once it is large.
create function carillon_repeats(publishers bigint[], keys text[], key_indexes int[]) returns int[]
language sql stable
set enable_seqscan to off
set plan_cache_mode to force_generic_plan
set jit to off
as $$
    select array_agg(place::int order by place)
    from (
        select k.place, e.position is not null
            or row_number() over (partition by k.publisher, k.key, k.key_index order by k.place) > 1 as is_repeat
        from unnest(publishers, keys, key_indexes) with ordinality k(publisher, key, key_index, place)
        left join events e on e.publisher = k.publisher and e.idempotency_key = k.key
            and e.idempotency_index = k.key_index
        where k.key is not null
    ) found
    where is_repeat
$$;

-- The events that have the keys at these places, in the order of the places. Settings as above.
create function carillon_first_events(
    repeats int[],
    publishers bigint[],
    keys text[],
    key_indexes int[],
    out positions bigint[],
    out ids uuid[],
    out created_at bigint[],
    out expires_at bigint[]
)
language sql stable
set enable_seqscan to off
set plan_cache_mode to force_generic_plan
set jit to off
as $$
    select array_agg(e.position), array_agg(e.id), array_agg(e.created_at), array_agg(e.expires_at)
    from (
        select f.*
        from unnest(repeats) with ordinality r(place, number)
        join events f on f.publisher = publishers[r.place] and f.idempotency_key = keys[r.place]
            and f.idempotency_index = key_indexes[r.place]
        order by r.number
    ) e
$$;

-- Appends events in the order of the arrays; all of one event have the same place. Recipients and topics name the
-- place, from 1, of their event. `form` is the oldest form that can hold these events. Arrays that would hold only
-- nulls may be empty.
--
-- The lock is held until the commit is visible, so positions become visible in the order in which they are drawn.
-- `positions` has null for a repeat of a key; of these the other arrays name the place and the first event.
create function carillon_append_events(
    form int,
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
    recipient_places int[],
    topic_names text[],
    topic_places int[],
    out previous bigint,
    out committed_at bigint,
    out positions bigint[],
    out repeats int[],
    out first_positions bigint[],
    out first_ids uuid[],
    out first_created_at bigint[],
    out first_expires_at bigint[]
)
language plpgsql
set enable_seqscan to off
set plan_cache_mode to force_generic_plan
set jit to off
as $$
#variable_conflict use_variable
declare
    forms_written int;
begin
    perform pg_advisory_xact_lock(7163384699738779502);
    select s.forms, greatest(s.floor, (select e.position from events e order by e.position desc limit 1)),
            carillon_now()
        into strict forms_written, previous, committed_at
        from log_state s;
    if form > forms_written then
        raise exception using errcode = 'CA001', message = 'form ' || form || ' is not written yet';
    end if;

    positions := array(select nextval('events_position') from generate_series(1, cardinality(ids)));
    -- A database restored from copied tables may have a sequence that stands below its events.
    if positions[1] <= previous then
        perform setval('events_position', previous);
        positions := array(select nextval('events_position') from generate_series(1, cardinality(ids)));
    end if;
    if cardinality(keys) > 0 then
        repeats := carillon_repeats(publishers, keys, key_indexes);
        for repeat in 1 .. coalesce(cardinality(repeats), 0) loop
            positions[repeats[repeat]] := null;
        end loop;
    end if;

    insert into events (
        position, id, type, priority, audience, topic, data, created_at, expires_at, keep_after_read, publisher,
        idempotency_key, idempotency_index
    )
    select
        e.position, e.id, e.type, e.priority, e.audience, topics[e.place], e.data, committed_at,
        coalesce(ends_at[e.place], committed_at + ends_in[e.place]), keeps[e.place], e.publisher, keys[e.place],
        key_indexes[e.place]
    -- What most events do not have is looked up by place: each array that is unnested costs, even an empty one.
    from unnest(positions, ids, types, priorities, audiences, payloads, publishers) with ordinality
        e(position, id, type, priority, audience, data, publisher, place)
    where e.position is not null;
    if cardinality(recipients) > 0 then
        insert into event_users (user_id, position, priority)
        select r.user_id, positions[r.place], nullif(priorities[r.place], 1)
        from unnest(recipients, recipient_places) r(user_id, place)
        where positions[r.place] is not null;
    end if;
    if cardinality(topic_names) > 0 then
        insert into event_topics (topic, position, priority)
        select t.topic, positions[t.place], nullif(priorities[t.place], 1)
        from unnest(topic_names, topic_places) t(topic, place)
        where positions[t.place] is not null;
    end if;

    if repeats is not null then
        select f.positions, f.ids, f.created_at, f.expires_at
            into first_positions, first_ids, first_created_at, first_expires_at
            from carillon_first_events(repeats, publishers, keys, key_indexes) f;
    end if;
end
$$;

-- For programs of migration 5, which give users and at most one topic for each event.
create or replace function carillon_append(
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
language sql
as $$
    select
        a.previous, coalesce(e.position, r.position), coalesce(r.id, e.id), coalesce(r.created_at, a.committed_at),
        case when r.place is null then coalesce(e.ends_at, a.committed_at + e.ends_in) else r.expires_at end,
        r.place is not null
    from carillon_append_events(
        1, ids, types, priorities, audiences, topics, payloads, ends_at, ends_in, keeps, publishers, keys, key_indexes,
        recipients, recipient_ordinals::int[], array_remove(topics, null),
        array(select t.place::int from unnest(topics) with ordinality t(topic, place) where t.topic is not null)
    ) a
    cross join lateral unnest(a.positions, ids, ends_at, ends_in) with ordinality
        e(position, id, ends_at, ends_in, place)
    left join lateral unnest(a.repeats, a.first_positions, a.first_ids, a.first_created_at, a.first_expires_at)
        r(place, position, id, created_at, expires_at) on r.place = e.place
    order by e.place
$$;
