-- What is needed from here on. The file's only program migrates it, so all of it is done at once.

-- Which forms of rows, cursors and messages are written: all that this migration brings.
alter table log_state add column forms integer not null default 2;

-- Of the request that the event came with: its fingerprint, its length, and the token it was made with.
alter table events add column request_hash blob;
alter table events add column request_length integer;
alter table events add column publisher_token integer;
-- The publisher's own reference.
alter table events add column ref text;
-- Who is behind gets only the newest event of a topic and this key.
alter table events add column collapse text;
-- True: the last event of its topic; false: the topic begins again.
alter table events add column is_end integer;
-- When data and targets were removed although the row stays.
alter table events add column emptied_at integer;
create index events_for_everyone_priority on events (priority, position) where audience = 0 and priority <> 1;
create index events_expiring on events (expires_at) where expires_at is not null and emptied_at is null;

-- What an index needs of its event stands beside the target, too. Normal priority is null here, so that most events
-- have no entry in the indexes by priority.
alter table event_users add column priority integer;
update event_users set priority = (select e.priority from events e where e.position = event_users.position)
    where position in (select position from events where audience = 1 and priority <> 1);
create index event_users_priority on event_users (user_id, priority, position) where priority is not null;

-- Every topic that an event is for. A topic that is an event's only target is in events.topic as well.
create table event_topics (
    topic text not null,
    position integer not null,
    priority integer,
    collapse text,
    is_end integer,
    primary key (topic, position)
) without rowid;
insert into event_topics (topic, position, priority)
    select topic, position, nullif(priority, 1) from events where audience = 2;
create index event_topics_position on event_topics (position);
create index event_topics_priority on event_topics (topic, priority, position) where priority is not null;
create index event_topics_collapse on event_topics (topic, collapse, position) where collapse is not null;
create index event_topics_end on event_topics (topic, position) where is_end is not null;
drop index events_for_topics;

create index receipts_unread on receipts (user_id, position) where not is_read;
create index receipts_forgotten on receipts (user_id, forgotten_by) where forgotten_by is not null;

insert into compatibility (version, compatible_from) values (7, 7);
