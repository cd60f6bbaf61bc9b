-- Who users are, also those whom an issuer outside vouches for, and which of their sessions and tokens have ended.

alter table users
    -- Who vouches for the user, and what the issuer calls them; null: an account of our own.
    add column issuer text,
    add column subject text,
    add column display_name text,
    -- What others may see of the user. It never changes.
    add column public_id text collate "C" not null default replace(gen_random_uuid()::text, '-', ''),
    -- Since when the user's sessions and tokens permit nothing.
    add column disabled_at bigint,
    -- Sessions begun before it are void.
    add column not_before bigint,
    add constraint users_issuer_and_subject check ((issuer is null) = (subject is null));
create unique index users_issuer_subject on users (issuer, subject);
create unique index users_public_id on users (public_id);

-- Every name that a row has or had, and its public id: what stands here is never given to another row, also not when
-- the row is gone.
create table user_names (
    name text collate "C" primary key,
    user_id bigint not null
);
create index user_names_user on user_names (user_id);
insert into user_names (name, user_id) select name, id from users union all select public_id, id from users;

create function carillon_reserve_names() returns trigger language plpgsql as $$
begin
    insert into user_names (name, user_id)
    select given.name, new.id from (values (new.name collate "C"), (new.public_id collate "C")) as given(name)
    where not exists (select from user_names held where held.name = given.name and held.user_id = new.id);
    return null;
end
$$;
create trigger users_names after insert or update of name, public_id on users
    for each row execute function carillon_reserve_names();

-- What has ended before its time, for the nodes to read; kept for an hour. Written by triggers, so that nothing ends
-- without it, whoever ends it.
create table endings (
    number bigint generated always as identity primary key,
    -- The secret's hash.
    secret bytea not null,
    -- The token's number; null: it was a session.
    token_id bigint,
    at bigint not null
);
create index endings_at on endings (at);

create function carillon_note_ending(ended_secret bytea, ended_token bigint) returns void language plpgsql as $$
begin
    -- Held until the commit is visible: who has read a number never finds a lower one later.
    perform pg_advisory_xact_lock(4820561197304462981);
    insert into endings (secret, token_id, at) values (ended_secret, ended_token, carillon_now());
end
$$;

create function carillon_session_ended() returns trigger language plpgsql as $$
begin
    perform carillon_note_ending(old.secret, null);
    return null;
end
$$;
create trigger sessions_ended after delete on sessions
    for each row when (old.expires_at > carillon_now()) execute function carillon_session_ended();

create function carillon_token_ended() returns trigger language plpgsql as $$
begin
    perform carillon_note_ending(old.secret, old.id);
    return null;
end
$$;
create trigger tokens_revoked after update of revoked_at on tokens
    for each row when (old.revoked_at is null and new.revoked_at is not null)
    execute function carillon_token_ended();
create trigger tokens_removed after delete on tokens
    for each row when (old.revoked_at is null and (old.expires_at is null or old.expires_at > carillon_now()))
    execute function carillon_token_ended();

-- Disabling ends sessions for good, and tokens for as long as it lasts. Enabling, too, begins without sessions: one
-- that was begun beside the disabling must not come to life by it.
create function carillon_user_restricted() returns trigger language plpgsql as $$
begin
    delete from sessions
    where user_id = new.id
        and (new.disabled_at is distinct from old.disabled_at or created_at < new.not_before);
    if old.disabled_at is null and new.disabled_at is not null then
        perform carillon_note_ending(t.secret, t.id) from tokens t
        where t.user_id = new.id and t.revoked_at is null
            and (t.expires_at is null or t.expires_at > carillon_now());
    end if;
    return null;
end
$$;
create trigger users_restricted after update of disabled_at, not_before on users
    for each row when (
        old.disabled_at is distinct from new.disabled_at or old.not_before is distinct from new.not_before)
    execute function carillon_user_restricted();

-- Programs of migration 5 know nothing of all this and need nothing of it.
insert into compatibility (version, compatible_from) values (6, 5);
