-- What people are shown of their sessions, to tell them apart and to end one.

-- What it is called where it is shown: the secret's hash is not.
alter table sessions add column id blob not null default x'';
alter table sessions add column user_agent text not null default '';
-- When it was used, to within some minutes; null: not since signing in.
alter table sessions add column seen_at integer;
update sessions set id = randomblob(16);
create unique index sessions_id on sessions (id);
