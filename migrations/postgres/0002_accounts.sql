-- Who may do what. Secrets are kept only as SHA-256.

create table users (
    id bigint generated always as identity primary key,
    -- Pages follow byte order, whatever the database's language.
    name text collate "C" not null unique,
    password_hash text not null,
    role text not null check (role in ('listener', 'publisher', 'admin')),
    created_at bigint not null
);

create table tokens (
    id bigint generated always as identity primary key,
    user_id bigint not null references users,
    name text not null,
    secret bytea not null unique,
    -- Words separated by commas.
    scopes text not null,
    created_at bigint not null,
    expires_at bigint,
    revoked_at bigint
);
create index tokens_user on tokens (user_id, id);
-- least() passes over nulls: the time at which a token ended, or will.
create index tokens_end on tokens (least(expires_at, revoked_at));

create table sessions (
    secret bytea primary key,
    user_id bigint not null references users,
    created_at bigint not null,
    expires_at bigint not null
);
create index sessions_user on sessions (user_id);
create index sessions_end on sessions (expires_at);
