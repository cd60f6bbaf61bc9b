-- No append rests on it any more.
alter table events drop constraint if exists events_publisher_idempotency_key_idempotency_index_key;
