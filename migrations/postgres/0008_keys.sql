-- no-transaction
-- In place of the constraint, in which every event without a key has an entry as well.
create unique index concurrently if not exists events_keys
    on events (publisher, idempotency_key, idempotency_index) where idempotency_key is not null;
