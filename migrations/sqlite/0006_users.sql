-- Who users are, also those whom an issuer outside vouches for, and which of their sessions and tokens have ended.

-- Who vouches for the user, and what the issuer calls them; null: an account of our own.
alter table users add column issuer text;
alter table users add column subject text check ((subject is null) = (issuer is null));
alter table users add column display_name text;
-- What others may see of the user. It never changes. Drawn by a trigger: an added column has no such default.
alter table users add column public_id text;
-- Since when the user's sessions and tokens permit nothing.
alter table users add column disabled_at integer;
-- Sessions begun before it are void.
alter table users add column not_before integer;
update users set public_id = lower(hex(randomblob(16)));
create unique index users_issuer_subject on users (issuer, subject);
create unique index users_public_id on users (public_id);

-- Every name that a row has or had, and its public id: what stands here is never given to another row, also not when
-- the row is gone.
create table user_names (
    name text primary key,
    user_id integer not null
) without rowid;
create index user_names_user on user_names (user_id);
insert into user_names (name, user_id) select name, id from users union all select public_id, id from users;

create trigger users_begin after insert on users
begin
    insert into user_names (name, user_id) values (new.name, new.id);
    update users set public_id = lower(hex(randomblob(16))) where id = new.id and public_id is null;
    insert into user_names (name, user_id) select public_id, id from users where id = new.id;
end;
create trigger users_renamed after update of name on users
begin
    insert into user_names (name, user_id) select new.name, new.id
    where not exists (select 1 from user_names where name = new.name and user_id = new.id);
end;

-- What has ended before its time, for the nodes to read; kept for an hour. Written by triggers, so that nothing ends
-- without it, whoever ends it.
create table endings (
    number integer primary key autoincrement,
    -- The secret's hash.
    secret blob not null,
    -- The token's number; null: it was a session.
    token_id integer,
    at integer not null
);
create index endings_at on endings (at);

create trigger sessions_ended after delete on sessions
when old.expires_at > cast(unixepoch('subsec') * 1000 as integer)
begin
    insert into endings (secret, at) values (old.secret, cast(unixepoch('subsec') * 1000 as integer));
end;
create trigger tokens_revoked after update of revoked_at on tokens
when old.revoked_at is null and new.revoked_at is not null
begin
    insert into endings (secret, token_id, at)
    values (old.secret, old.id, cast(unixepoch('subsec') * 1000 as integer));
end;
create trigger tokens_removed after delete on tokens
when old.revoked_at is null
    and (old.expires_at is null or old.expires_at > cast(unixepoch('subsec') * 1000 as integer))
begin
    insert into endings (secret, token_id, at)
    values (old.secret, old.id, cast(unixepoch('subsec') * 1000 as integer));
end;

-- Disabling ends sessions for good, and tokens for as long as it lasts. Enabling, too, begins without sessions: one
-- that was begun beside the disabling must not come to life by it.
create trigger users_restricted after update of disabled_at, not_before on users
when old.disabled_at is not new.disabled_at or old.not_before is not new.not_before
begin
    delete from sessions
    where user_id = new.id and (new.disabled_at is not old.disabled_at or created_at < new.not_before);
    insert into endings (secret, token_id, at)
    select secret, id, cast(unixepoch('subsec') * 1000 as integer) from tokens
    where old.disabled_at is null and new.disabled_at is not null
        and user_id = new.id and revoked_at is null
        and (expires_at is null or expires_at > cast(unixepoch('subsec') * 1000 as integer));
end;

-- Programs of migration 5 know nothing of all this and need nothing of it.
insert into compatibility (version, compatible_from) values (6, 5);
