-- no-transaction
-- Retention goes through marks by position, and many users may have one at the same.
create index concurrently if not exists read_marks_position_user on read_marks (position, user_id);
