-- "Read up to here" can be taken back as long as it is the newest a user said. Each has a number of its own; a mark
-- and the receipts that it changed bear it.
create table last_read_up_to (
    user_id integer primary key,
    number integer not null,
    is_taken_back integer not null default 0
);
alter table read_marks add column number integer;
alter table receipts add column forgotten_by integer;
