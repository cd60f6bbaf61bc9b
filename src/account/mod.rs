//! Users, what they may do, and what proves who they are. Pure: the store keeps these, `identity` decides by them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::{Invalid, Millis, UserId};

/// SHA-256 of a secret (session id or token): the store never holds the secret itself.
pub type SecretHash = [u8; 32];

/// What a user may do: each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Receives.
    Listener,
    /// Also publishes, and retracts what it published.
    Publisher,
    /// Also retracts anything.
    Admin,
}

impl Role {
    /// The word used in JSON, on the command line and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::Listener, Self::Publisher, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| Invalid::new("role", "must be listener, publisher or admin"))
    }
}

/// A person or program that may sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The store's number.
    pub id: UserId,
    /// What it is called now, as [`check_name`](crate::event::name::check_name) has it; unique.
    pub name: String,
    /// What others may see of it: opaque, random, and never another's.
    pub public_id: String,
    /// What it is called in pages, if that is not its name. Need not be unique.
    pub display_name: Option<String>,
    /// Every name it has or had, by bytes. None was or will be another's.
    pub names: Vec<String>,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Millis,
    /// Since when its sessions and tokens permit nothing, if they do not.
    pub disabled_at: Option<Millis>,
}

impl User {
    /// Whether `text` means this user and can never mean another: its public id, or a name that it has or had.
    pub fn is_called(&self, text: &str) -> bool {
        self.public_id == text || self.names.iter().any(|name| name == text)
    }
}

/// What a token lets its bearer do, each within the role of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Publish and retract.
    Publish,
    /// Stream and inbox.
    Listen,
}

impl Scope {
    /// The word used in JSON, on the command line and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Listen => "listen",
        }
    }
}

impl FromStr for Scope {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "publish" => Ok(Self::Publish),
            "listen" => Ok(Self::Listen),
            _ => Err(Invalid::new("scope", "must be publish or listen")),
        }
    }
}

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The store's number.
    pub id: i64,
    /// Whose it is.
    pub user: User,
    /// What it is for, in its maker's words.
    pub name: String,
    /// What it lets its bearer do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Millis,
    /// When it ends by itself.
    pub expires_at: Option<Millis>,
    /// When it was revoked, if so.
    pub revoked_at: Option<Millis>,
}

/// A signed-in browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What it is called where it is shown; unlike the secret, it permits nothing.
    pub id: Uuid,
    /// Whose it is.
    pub user: User,
    /// When somebody signed in.
    pub created_at: Millis,
    /// When it was last used, to within some minutes.
    pub seen_at: Millis,
    /// When it ends by itself.
    pub expires_at: Millis,
    /// What the browser called itself when it signed in.
    pub user_agent: String,
    /// When this was read, by the database's clock.
    pub read_at: Millis,
}

/// What a connection's permission rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Credential {
    /// A session, by the hash of its secret.
    Session(SecretHash),
    /// A token, by its number.
    Token(i64),
}

/// A session or a token that ended before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The hash of its secret.
    pub secret: SecretHash,
    /// The token's number; `None`: it was a session.
    pub token: Option<i64>,
}

impl Ending {
    /// What no longer permits anything.
    pub fn credential(&self) -> Credential {
        self.token.map_or(Credential::Session(self.secret), Credential::Token)
    }
}
