-- Who may do what. Secrets are kept only as SHA-256.

create table users (
    id integer primary key autoincrement,
    name text not null unique,
    password_hash text not null,
    role text not null check (role in ('listener', 'publisher', 'admin')),
    created_at integer not null
);

create table tokens (
    id integer primary key autoincrement,
    user_id integer not null references users,
    name text not null,
    secret blob not null unique,
    -- Words separated by commas.
    scopes text not null,
    created_at integer not null,
    expires_at integer,
    revoked_at integer
);
create index tokens_user on tokens (user_id, id);

create table sessions (
    secret blob primary key,
    user_id integer not null references users,
    created_at integer not null,
    expires_at integer not null
) without rowid;
create index sessions_user on sessions (user_id);
