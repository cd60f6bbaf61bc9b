-- no-transaction
-- What a user left unread below a mark.
create index concurrently if not exists receipts_unread on receipts (user_id, position) where not is_read;
