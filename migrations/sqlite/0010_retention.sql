-- How far retention has looked at marks: those up to here are gone, or the last of their users.
alter table log_state add column marks_position integer not null default 0;
alter table log_state add column marks_user integer not null default 0;
create index read_marks_position on read_marks (position, user_id);

insert into compatibility (version, compatible_from)
    select 10, compatible_from from compatibility where version = (select max(version) from compatibility);
