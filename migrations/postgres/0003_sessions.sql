-- What people are shown of their sessions, to tell them apart and to end one.

alter table sessions
    -- What it is called where it is shown: the secret's hash is not.
    add column id uuid not null default gen_random_uuid(),
    add column user_agent text not null default '',
    -- When it was used, to within some minutes; null: not since signing in.
    add column seen_at bigint;
create unique index sessions_id on sessions (id);
