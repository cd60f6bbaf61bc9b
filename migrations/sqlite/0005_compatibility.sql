-- Which programs may use a schema: each migration from here on says so for itself. A program is known by the newest
-- migration it brings; it may use a schema that is newer if the row of the newest migration names it.
create table compatibility (
    version integer primary key,
    compatible_from integer not null
);
insert into compatibility (version, compatible_from) values (5, 5);
