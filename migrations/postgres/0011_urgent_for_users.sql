-- no-transaction
create index concurrently if not exists event_users_priority
    on event_users (user_id, priority, position) where priority is not null;
