//! Query parameters, read by name so that a mistake is answered with the parameter's name.

use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use url::form_urlencoded;

use super::problem::Problem;
use crate::event::{Invalid, Selector, Topic};
use crate::identity::Identity;
use crate::identity::topic_rules::TopicRules;
use crate::store::Reader;

/// The most values of one repeatable parameter.
const MAX_REPEATS: usize = 32;

/// The parameters of a request's address.
#[derive(Debug)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// A parameter that may stand once; empty counts as absent.
    pub fn one<'a>(&'a self, name: &str) -> Result<Option<&'a str>, Problem> {
        let mut values = self.all(name).into_iter();
        let first = values.next();
        match values.next() {
            Some(_) => Err(Invalid::new(name, "may stand only once").into()),
            None => Ok(first),
        }
    }

    /// A parameter that may stand once, read as what it means.
    pub fn parsed<T: FromStr>(&self, name: &str, must: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Invalid::new(name, must).into())
    }

    /// A whole number that may stand once, within bounds.
    pub fn within(&self, name: &str, bounds: RangeInclusive<u32>) -> Result<Option<u32>, Problem> {
        let must = format!("must be {} to {}", bounds.start(), bounds.end());
        match self.parsed(name, &must)? {
            Some(number) if !bounds.contains(&number) => Err(Invalid::new(name, must).into()),
            number => Ok(number),
        }
    }

    /// `true` or `false`; absent is false.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        Ok(self.parsed(name, "must be true or false")?.unwrap_or(false))
    }

    /// A parameter that may be repeated, each of a kind that says itself what is wrong.
    pub fn list<T: FromStr<Err = Invalid>>(&self, name: &str) -> Result<Vec<T>, Problem> {
        let parse =
            |text: &str| text.parse().map_err(|e: Invalid| Problem::from(Invalid::new(name, e.message)));
        let values = self.all(name).into_iter().map(parse).collect::<Result<Vec<T>, _>>()?;
        if values.len() > MAX_REPEATS {
            return Err(Invalid::new(name, format!("may stand at most {MAX_REPEATS} times")).into());
        }
        Ok(values)
    }

    /// The caller, with what is asked for by `topic`, `type` and `min_priority`; the topics they may read.
    pub fn reader(&self, caller: &Identity, rules: &TopicRules) -> Result<Reader, Problem> {
        let topics: Vec<Topic> = self.list("topic")?;
        if let Some(topic) = topics.iter().find(|topic| !rules.may_read(&caller.user, topic)) {
            return Err(Problem::forbidden(&format!("topic: you may not read {topic}")).about("topic"));
        }
        let must = "must be low, normal, high or urgent";
        let (types, min_priority) = (self.list("type")?, self.parsed("min_priority", must)?);
        let selector = Selector { types, min_priority, ..Selector::of_user(caller.user.id, topics) };
        Ok(Reader { user: caller.user.id, selector })
    }

    /// All values of a parameter, as they were given; empty ones count as absent.
    pub fn all<'a>(&'a self, name: &str) -> Vec<&'a str> {
        self.0.iter().filter(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.as_str()).collect()
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect()))
    }
}
