-- no-transaction
create index concurrently if not exists receipts_forgotten
    on receipts (user_id, forgotten_by) where forgotten_by is not null;
