-- What is needed from here on, added without rewriting a table: each of these changes only the catalogue. The tables
-- are locked in the order in which appends and retention use them.

-- Which forms of rows, cursors and messages are written: 1, those that programs of migration 5 read; 2, all that this
-- migration brings. `carillon migrate --finish` raises it.
alter table log_state add column forms integer not null default 1;

alter table events
    -- Of the request that the event came with: its fingerprint, its length, and the token it was made with.
    add column request_hash bytea,
    add column request_length bigint,
    add column publisher_token bigint,
    -- The publisher's own reference.
    add column ref text,
    -- Who is behind gets only the newest event of a topic and this key.
    add column collapse text collate "C",
    -- True: the last event of its topic; false: the topic begins again.
    add column is_end boolean,
    -- When data and targets were removed although the row stays.
    add column emptied_at bigint;

-- What an index needs of its event stands beside the target, too. Normal priority is null here, so that most events
-- have no entry in the indexes by priority.
alter table event_users add column priority smallint;

-- Every topic that an event is for. A topic that is an event's only target is in events.topic as well.
create table event_topics (
    topic text collate "C" not null,
    position bigint not null,
    priority smallint,
    collapse text collate "C",
    is_end boolean,
    primary key (topic, position)
);
create index event_topics_position on event_topics (position);
create index event_topics_priority on event_topics (topic, priority, position) where priority is not null;
create index event_topics_collapse on event_topics (topic, collapse, position) where collapse is not null;
create index event_topics_end on event_topics (topic, position) where is_end is not null;

-- How far what was there before a migration has been brought into its new form, in the order of numbers.
create table fills (
    number integer primary key,
    name text not null unique,
    -- Everything at or below was filled; all of it once that is up_to.
    filled bigint not null default 0,
    -- Null until it begins. What comes later is written in its new form.
    up_to bigint
);
insert into fills (number, name) values (1, 'topics of events'), (2, 'priorities of events for users');

-- The migrations up to here belong together; those that make an index cannot write their own row.
insert into compatibility (version, compatible_from)
    values (7, 5), (8, 5), (9, 5), (10, 5), (11, 5), (12, 5), (13, 5), (14, 5), (15, 5);
