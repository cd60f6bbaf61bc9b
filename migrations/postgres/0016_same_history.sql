-- Where the log stands, compared with what a node has applied of it: events up to `known_position`, of which the last
-- has `known_id`. A log that ends before, or that has another event or none there, has lost its end, whatever it has
-- taken since; it begins a new epoch in this transaction. At or below the floor nothing can be compared.
--
-- The settings keep a plan that was made while the table was small from scanning it once it is large.
create or replace function carillon_log_state(
    known_epoch text,
    known_position bigint,
    known_id uuid,
    out epoch text,
    out floor bigint,
    out head bigint,
    out head_id uuid,
    out now bigint,
    out forms int,
    out is_new_epoch boolean
)
language plpgsql
set enable_seqscan to off
set plan_cache_mode to force_generic_plan
set jit to off
as $$
#variable_conflict use_variable
begin
    -- One statement: retention removes events and raises the floor between any two.
    select
        s.epoch, s.floor, greatest(s.floor, l.position), case when l.position >= s.floor then l.id end,
        carillon_now(), s.forms,
        s.epoch = known_epoch and (
            known_position > greatest(s.floor, l.position)
            or known_id is not null and known_position > s.floor
                and not exists (select from events e where e.position = known_position and e.id = known_id)
        )
        into strict epoch, floor, head, head_id, now, forms, is_new_epoch
        from log_state s
        left join (select e.position, e.id from events e order by e.position desc limit 1) l on true;
    is_new_epoch := coalesce(is_new_epoch, false);
    if is_new_epoch then
        update log_state s set epoch = carillon_new_epoch() where s.epoch = known_epoch;
        -- Another may have been faster.
        is_new_epoch := found;
        select s.epoch into strict epoch from log_state s;
    end if;
end
$$;

-- The programs that may use the schema before may use this one.
insert into compatibility (version, compatible_from)
    select 16, compatible_from from compatibility where version = 15 on conflict do nothing;
