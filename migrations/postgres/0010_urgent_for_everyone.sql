-- no-transaction
-- Reads by priority take what is normal from the index by position. Like each of the following, this waits until every
-- transaction has ended that was under way before: appends that began with the old functions are over after it.
create index concurrently if not exists events_for_everyone_priority
    on events (priority, position) where audience = 0 and priority <> 1;
