-- The log. All times are milliseconds since the Unix epoch, by this database's clock.

-- One row. Everything at or below floor was removed by retention, so the head never falls below it.
create table log_state (
    singleton integer primary key check (singleton = 1),
    epoch text not null,
    floor integer not null
);
insert into log_state (singleton, epoch, floor) values (1, lower(hex(randomblob(4))), 0);

create table events (
    -- AUTOINCREMENT never gives a position a second time, even when the highest rows are gone.
    position integer primary key autoincrement,
    id blob not null unique,
    type text not null,
    priority integer not null,
    -- 0 everyone, 1 the users in event_users, 2 the topic.
    audience integer not null check (audience between 0 and 2),
    topic text check ((topic is not null) = (audience = 2)),
    data text not null,
    created_at integer not null,
    expires_at integer,
    keep_after_read integer,
    retracted_at integer,
    publisher integer not null,
    idempotency_key text,
    idempotency_index integer,
    unique (publisher, idempotency_key, idempotency_index)
);
create index events_for_everyone on events (position) where audience = 0;
create index events_for_topics on events (topic, position) where audience = 2;

create table event_users (
    user_id integer not null,
    position integer not null,
    primary key (user_id, position)
) without rowid;
create index event_users_position on event_users (position);

-- What a user said about single events; it outweighs the marks.
create table receipts (
    user_id integer not null,
    position integer not null,
    is_read integer not null,
    at integer not null,
    primary key (user_id, position)
) without rowid;
create index receipts_position on receipts (position);

-- "Read up to here". Each row lies above the user's rows before it, so the lowest one at or above an event is
-- the one that read it first.
create table read_marks (
    user_id integer not null,
    position integer not null,
    at integer not null,
    primary key (user_id, position)
) without rowid;
