-- no-transaction
-- Finds the events that have expired and still hold their data.
create index concurrently if not exists events_expiring
    on events (expires_at) where expires_at is not null and emptied_at is null;
