//! `carillon user` and `carillon token`.

use std::io::BufRead as _;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::open_store;
use super::terminal::harmless;
use crate::account::{Role, Scope, User};
use crate::bus::Notifier;
use crate::config::StoreArgs;
use crate::event::rfc3339;
use crate::identity::{Accounts, random_secret};
use crate::store::Store;
use crate::ttl::{Ttl, TtlLimits};

/// How many rows a listing reads at once.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user; a random password is printed unless one is given on standard input
    Add {
        /// 1 to 255 bytes of text without control characters
        name: String,
        /// What the user may do: listener, publisher or admin
        #[arg(long, default_value = "listener")]
        role: Role,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Set a user's password; their sessions end, with their streams, within about a second
    Passwd {
        /// The user's name
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// List the users
    List(StoreArgs),
}

#[derive(Debug, Args)]
pub(super) struct PasswordArgs {
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token; its secret is printed, once
    Create {
        /// Whose token it is
        #[arg(long)]
        user: String,
        /// What it is for
        #[arg(long)]
        name: String,
        /// What it permits: publish or listen; may be repeated
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
        /// Days until it ends by itself
        #[arg(long)]
        days: Option<u32>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// List the tokens
    List(StoreArgs),
    /// Revoke a token; its streams end within about a second
    Revoke {
        /// The number that 'token list' shows
        id: i64,
        #[command(flatten)]
        store: StoreArgs,
    },
}

pub(super) async fn user(command: UserCommand) -> anyhow::Result<()> {
    match command {
        UserCommand::Add { name, role, password, store } => {
            let (_, accounts) = open(&store).await?;
            let (password, is_new) = choose(&password)?;
            let user = accounts.create(&name, &password, role).await?;
            println!("{} {}", harmless(&user.name), user.role.as_str());
            show(&password, is_new);
        }
        UserCommand::Passwd { name, password, store } => {
            let (store, accounts) = open(&store).await?;
            let user = find(&store, &name).await?;
            let (password, is_new) = choose(&password)?;
            let ended = accounts.set_password(user.id, &password, None).await?;
            println!("{}: password set, {ended} sessions ended", harmless(&name));
            show(&password, is_new);
        }
        UserCommand::List(store) => {
            let (store, _) = open(&store).await?;
            let mut after = String::new();
            loop {
                let users = store.users(&after, PAGE).await?;
                for user in &users {
                    println!(
                        "{}\t{}\t{}",
                        harmless(&user.name),
                        user.role.as_str(),
                        rfc3339(user.created_at)
                    );
                }
                let Some(last) = users.last() else { break };
                after.clone_from(&last.name);
            }
        }
    }
    Ok(())
}

pub(super) async fn token(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create { user, name, scopes, days, store } => {
            let (store, accounts) = open(&store).await?;
            let user = find(&store, &user).await?;
            let lifetime = days.map(|days| std::time::Duration::from_secs(u64::from(days) * 86_400));
            let (secret, _) = accounts.create_token(user.id, &name, &scopes, lifetime).await?;
            println!("{secret}");
        }
        TokenCommand::List(store) => {
            let (store, _) = open(&store).await?;
            for token in store.tokens(None, 10_000).await? {
                let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
                let state = match (token.revoked_at, token.user.disabled_at) {
                    (Some(_), _) => "revoked",
                    (None, Some(_)) => "disabled",
                    (None, None) => "valid",
                };
                let ends = token.expires_at.map_or_else(|| "never ends".into(), rfc3339);
                println!(
                    "{}\t{}\t{}\t{state}\t{ends}\t{}",
                    token.id,
                    harmless(&token.user.name),
                    scopes.join(","),
                    harmless(&token.name)
                );
            }
        }
        TokenCommand::Revoke { id, store } => {
            let (_, accounts) = open(&store).await?;
            anyhow::ensure!(accounts.revoke_token(id, None).await?, "there is no valid token {id}");
            println!("token {id} is revoked");
        }
    }
    Ok(())
}

async fn open(args: &StoreArgs) -> anyhow::Result<(Store, Accounts)> {
    let store = open_store(args).await?;
    let accounts =
        Accounts::new(store.clone(), Ttl::open("memory:", &TtlLimits::default())?, Notifier::without_bus());
    Ok((store, accounts))
}

async fn find(store: &Store, name: &str) -> anyhow::Result<User> {
    let found = store.user_by_name(name).await?;
    Ok(found.with_context(|| format!("there is no user {}", harmless(name)))?.0)
}

/// The password given, or a random one (true).
fn choose(args: &PasswordArgs) -> anyhow::Result<(String, bool)> {
    if !args.password_stdin {
        return Ok((random_secret()[..16].to_owned(), true));
    }
    let line = std::io::stdin().lock().lines().next().context("standard input has no line")??;
    Ok((line, false))
}

fn show(password: &str, is_new: bool) {
    if is_new {
        println!("password: {password}");
    }
}
