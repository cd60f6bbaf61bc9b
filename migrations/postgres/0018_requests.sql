-- A request to publish is known by its fingerprint, which stands beside the key of each of its events.

-- Of requests with these keys, those whose key came with another request, in the log or at an earlier place: the places
-- (from 1) of their first events. What has no fingerprint matches anything.
--
-- The settings keep a plan that was made while the table was small from scanning it once it is large.
create or replace function carillon_reused_keys(
    publishers bigint[], keys text[], key_indexes int[], request_hashes bytea[], request_lengths bigint[]
) returns int[]
language sql stable
set enable_seqscan to off
set plan_cache_mode to force_generic_plan
set jit to off
as $$
    select array_agg(r.place::int order by r.place)
    from (
        select k.*, first_value(k.hash) over same_key as first_hash, first_value(k.length) over same_key as first_length
        from unnest(publishers, keys, key_indexes, request_hashes, request_lengths) with ordinality
            k(publisher, key, key_index, hash, length, place)
        -- One event of each request is enough.
        where k.key is not null and k.key_index = 0
        window same_key as (partition by k.publisher, k.key order by k.place)
    ) r
    left join lateral (
        select true as is_there, e.request_hash, e.request_length from events e
        where e.publisher = r.publisher and e.idempotency_key = r.key order by e.idempotency_index limit 1
    ) f on true
    where r.hash <> case when f.is_there then f.request_hash else r.first_hash end
        or r.length <> case when f.is_there then f.request_length else r.first_length end
$$;

-- Appends events in the order of the arrays; all of one event have the same place. Recipients and topics name the
-- place, from 1, of their event. `form` is the oldest form that can hold these events. Arrays that would hold only
-- nulls may be empty.
--
-- The lock is held until the commit is visible, so positions become visible in the order in which they are drawn.
-- `positions` has null for a repeat of a key; of these the other arrays name the place and the first event. Nothing is
-- written if a key came with another request: the error's detail then names, as an array, the places of the first events
-- of those requests.
--
-- The log is compared with what the node has applied of it, as `carillon_log_state` does, in the statement that looks at its
-- head: if it has lost its end, these events belong to a new epoch.
create or replace function carillon_append_events(
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
    request_hashes bytea[],
    request_lengths bigint[],
    known_epoch text,
    known_position bigint,
    known_id uuid,
    out epoch text,
    out is_new_epoch boolean,
    out previous bigint,
    out previous_id uuid,
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
    reused int[];
begin
    perform pg_advisory_xact_lock(7163384699738779502);
    select
        s.epoch, s.forms, greatest(s.floor, l.position), case when l.position >= s.floor then l.id end, carillon_now(),
        s.epoch = known_epoch and (
            known_position > greatest(s.floor, l.position)
            or known_id is not null and known_position > s.floor
                and not exists (select from events e where e.position = known_position and e.id = known_id)
        )
        into strict epoch, forms_written, previous, previous_id, committed_at, is_new_epoch
        from log_state s
        left join (select e.position, e.id from events e order by e.position desc limit 1) l on true;
    is_new_epoch := coalesce(is_new_epoch, false);
    if is_new_epoch then
        select l.epoch, l.is_new_epoch into strict epoch, is_new_epoch
            from carillon_log_state(known_epoch, known_position, known_id) l;
    end if;
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
        if cardinality(request_hashes) > 0 then
            reused := carillon_reused_keys(publishers, keys, key_indexes, request_hashes, request_lengths);
            if reused is not null then
                raise exception using errcode = 'CA002', message = 'keys came with other requests', detail = reused::text;
            end if;
        end if;
        repeats := carillon_repeats(publishers, keys, key_indexes);
        for repeat in 1 .. coalesce(cardinality(repeats), 0) loop
            positions[repeats[repeat]] := null;
        end loop;
    end if;

    insert into events (
        position, id, type, priority, audience, topic, data, created_at, expires_at, keep_after_read, publisher,
        idempotency_key, idempotency_index, request_hash, request_length
    )
    select
        e.position, e.id, e.type, e.priority, e.audience, topics[e.place], e.data, committed_at,
        coalesce(ends_at[e.place], committed_at + ends_in[e.place]), keeps[e.place], e.publisher, keys[e.place],
        key_indexes[e.place], request_hashes[e.place], request_lengths[e.place]
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

-- For programs of migrations 9 to 17, which store no fingerprint.
create or replace function carillon_append_events(
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
language sql
as $$
    select
        a.previous, a.committed_at, a.positions, a.repeats, a.first_positions, a.first_ids, a.first_created_at,
        a.first_expires_at
    from carillon_append_events(
        form, ids, types, priorities, audiences, topics, payloads, ends_at, ends_in, keeps, publishers, keys, key_indexes,
        recipients, recipient_places, topic_names, topic_places, '{}'::bytea[], '{}'::bigint[], null, null, null) a
$$;

-- How far retention has looked at marks: those up to here are gone, or the last of their users.
alter table log_state
    add column if not exists marks_position bigint not null default 0,
    add column if not exists marks_user bigint not null default 0;

-- The programs that may use the schema before may use this one, and the index that is made after it.
insert into compatibility (version, compatible_from)
    select added.version, before.compatible_from from compatibility before, (values (18), (19)) added(version)
    where before.version = (select max(version) from compatibility)
    on conflict do nothing;
