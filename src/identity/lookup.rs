//! Questions to the store for something by its key: most are answered by what it said a moment ago, the others are asked
//! together. A thousand clients that come back at once then cost a few statements, not a thousand.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::oneshot;

use super::CACHED_FOR;
use crate::store::StoreError;

/// How many answers a node keeps of one kind, at up to a kilobyte each; the least used leave first.
const MAX_CACHED: u64 = 100_000;
/// How many keys one statement asks for at most, save those of one question that has more.
const KEYS_AT_ONCE: usize = 500;
/// How many statements of one kind run at once; whatever comes meanwhile is gathered for the next.
const STATEMENTS_AT_ONCE: usize = 2;
/// How many keys may wait.
const MAX_WAITING: usize = 100_000;

/// What the store found: keys, each with what stands for it.
pub(super) type Found<K, V> = Result<Vec<(K, V)>, StoreError>;

/// Asks the store for keys, each once.
type Ask<K, V> = Box<dyn Fn(Vec<K>) -> BoxFuture<'static, Found<K, V>> + Send + Sync>;

/// One kind of question. Answers are kept for [`CACHED_FOR`]; that there is none is not kept. What is forgotten
/// ([`Self::forget`]) is asked for again, and an answer that was asked for before that is not kept after it. Clones share
/// everything.
pub struct Lookup<K, V>(Arc<Shared<K, V>>);

impl<K, V> Clone for Lookup<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<K, V> {
    known: Cache<K, V>,
    /// How often something was forgotten.
    forgotten: AtomicU64,
    waiting: Mutex<Waiting<K, V>>,
    ask: Ask<K, V>,
}

struct Waiting<K, V> {
    questions: VecDeque<Question<K, V>>,
    /// Of all questions.
    keys: usize,
    statements: usize,
}

struct Question<K, V> {
    keys: Vec<K>,
    reply: oneshot::Sender<Result<HashMap<K, V>, StoreError>>,
}

impl<K, V> Lookup<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Asked by `ask`, which gets keys, each once.
    pub(super) fn new(
        ask: impl Fn(Vec<K>) -> BoxFuture<'static, Found<K, V>> + Send + Sync + 'static,
    ) -> Self {
        let waiting = Waiting { questions: VecDeque::new(), keys: 0, statements: 0 };
        Self(Arc::new(Shared {
            known: lru(),
            forgotten: AtomicU64::new(0),
            waiting: Mutex::new(waiting),
            ask: Box::new(ask),
        }))
    }

    /// What stands for `key`, if anything does.
    pub async fn get(&self, key: &K) -> Result<Option<V>, StoreError> {
        match self.0.known.get(key) {
            Some(known) => Ok(Some(known)),
            None => Ok(self.ask(vec![key.clone()]).await?.remove(key)),
        }
    }

    /// What stands for each of `keys`, as far as anything does.
    pub async fn get_all(&self, keys: Vec<K>) -> Result<HashMap<K, V>, StoreError> {
        let mut found = HashMap::with_capacity(keys.len());
        let mut missing = Vec::new();
        for key in keys {
            match self.0.known.get(&key) {
                Some(known) => _ = found.insert(key, known),
                None => missing.push(key),
            }
        }
        if !missing.is_empty() {
            found.extend(self.ask(missing).await?);
        }
        Ok(found)
    }

    /// What stood for these does no more, or something else does.
    pub fn forget<'a>(&self, keys: impl IntoIterator<Item = &'a K>)
    where
        K: 'a,
    {
        self.0.forgotten.fetch_add(1, Ordering::SeqCst);
        keys.into_iter().for_each(|key| self.0.known.invalidate(key));
    }

    async fn ask(&self, keys: Vec<K>) -> Result<HashMap<K, V>, StoreError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.0.waiting();
            if waiting.keys > 0 && waiting.keys + keys.len() > MAX_WAITING {
                return Err(StoreError::Unavailable("too many look-ups wait for it".into()));
            }
            waiting.keys += keys.len();
            waiting.questions.push_back(Question { keys, reply });
            if waiting.statements < STATEMENTS_AT_ONCE {
                waiting.statements += 1;
                // Of its own: who asked may go, and others wait for the same answer.
                tokio::spawn(self.0.clone().answer());
            }
        }
        answer.await.map_err(|_| StoreError::Unavailable("a look-up broke off".into()))?
    }
}

impl<K, V> Shared<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn waiting(&self) -> MutexGuard<'_, Waiting<K, V>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for what waits until nothing does.
    async fn answer(self: Arc<Self>) {
        while let Some(questions) = self.take() {
            let keys: HashSet<K> =
                questions.iter().flat_map(|question| question.keys.iter().cloned()).collect();
            let forgotten = self.forgotten.load(Ordering::SeqCst);
            // A panic must not leave the others waiting for ever.
            let asked = std::panic::AssertUnwindSafe((self.ask)(keys.into_iter().collect())).catch_unwind();
            let found = asked.await.unwrap_or_else(|_| Err(StoreError::Failed("a look-up panicked".into())));
            let found = found.map(|found| found.into_iter().collect::<HashMap<K, V>>());
            if let Ok(found) = &found {
                self.keep(found, forgotten);
            }
            for Question { keys, reply } in questions {
                let its = |found: &HashMap<K, V>| -> HashMap<K, V> {
                    keys.iter()
                        .filter_map(|key| found.get_key_value(key))
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect()
                };
                // Who asked may have gone.
                let _ = reply.send(found.as_ref().map(its).map_err(StoreError::clone));
            }
        }
    }

    /// The questions of one statement; `None` if none waits, and then this task is not counted any more.
    fn take(&self) -> Option<Vec<Question<K, V>>> {
        let mut waiting = self.waiting();
        let mut questions = Vec::new();
        let mut keys = 0;
        while let Some(next) = waiting.questions.front() {
            if keys > 0 && keys + next.keys.len() > KEYS_AT_ONCE {
                break;
            }
            keys += next.keys.len();
            questions.extend(waiting.questions.pop_front());
        }
        waiting.keys -= keys;
        if questions.is_empty() {
            waiting.statements -= 1;
            return None;
        }
        Some(questions)
    }

    fn keep(&self, found: &HashMap<K, V>, forgotten: u64) {
        for (key, value) in found {
            self.known.insert(key.clone(), value.clone());
            // `forget` counts first and removes then: either that is seen here, or its removal comes after this insertion.
            if self.forgotten.load(Ordering::SeqCst) != forgotten {
                self.known.invalidate(key);
            }
        }
    }
}

/// Least recently used, not moka's own policy: that one may refuse a new answer to a full cache.
pub(super) fn lru<K, V>() -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(MAX_CACHED)
        .eviction_policy(EvictionPolicy::lru())
        .time_to_live(CACHED_FOR)
        .build()
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    /// Finds twice the number for every key below 1,000, once it is permitted to; notes the keys of each statement.
    #[derive(Clone)]
    struct Source {
        statements: Arc<Mutex<Vec<Vec<u32>>>>,
        permits: Arc<Semaphore>,
    }

    impl Source {
        fn new(permits: usize) -> (Self, Lookup<u32, u32>) {
            let source = Self { statements: Arc::default(), permits: Arc::new(Semaphore::new(permits)) };
            let asked = source.clone();
            let lookup = Lookup::new(move |keys| {
                let source = asked.clone();
                async move { source.ask(keys).await }.boxed()
            });
            (source, lookup)
        }

        async fn ask(&self, mut keys: Vec<u32>) -> Found<u32, u32> {
            keys.sort_unstable();
            self.statements.lock().unwrap().push(keys.clone());
            self.permits.acquire().await.unwrap().forget();
            match keys.as_slice() {
                [13, ..] => panic!("an unlucky number"),
                [14, ..] => Err(StoreError::Unavailable("no".into())),
                _ => Ok(keys.into_iter().filter(|key| *key < 1_000).map(|key| (key, key * 2)).collect()),
            }
        }

        fn statements(&self) -> Vec<Vec<u32>> {
            self.statements.lock().unwrap().clone()
        }

        async fn until(&self, statements: usize) {
            while self.statements().len() < statements {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn what_is_known_is_not_asked_for_until_it_is_forgotten() {
        let (source, lookup) = Source::new(100);
        assert_eq!(lookup.get(&1).await.unwrap(), Some(2));
        assert_eq!(lookup.get(&1).await.unwrap(), Some(2));
        assert_eq!(lookup.get_all(vec![1, 5, 1_001]).await.unwrap(), HashMap::from([(1, 2), (5, 10)]));
        lookup.forget([&1]);
        assert_eq!(lookup.get(&1).await.unwrap(), Some(2));
        for _ in 0..2 {
            assert_eq!(lookup.get(&1_000).await.unwrap(), None, "what is not there is asked for each time");
        }
        assert_eq!(source.statements(), [vec![1], vec![5, 1_001], vec![1], vec![1_000], vec![1_000]]);
    }

    #[tokio::test]
    async fn an_answer_from_before_it_was_forgotten_is_not_kept_after_it() {
        let (source, lookup) = Source::new(0);
        let asking = tokio::spawn({
            let lookup = lookup.clone();
            async move { lookup.get(&1).await }
        });
        source.until(1).await;
        lookup.forget([&7]);
        source.permits.add_permits(2);
        assert_eq!(asking.await.unwrap().unwrap(), Some(2));
        lookup.get(&1).await.unwrap();
        assert_eq!(source.statements().len(), 2);
    }

    #[tokio::test]
    async fn what_comes_while_statements_run_becomes_one() {
        let (source, lookup) = Source::new(0);
        let mut asking = tokio::task::JoinSet::new();
        let mut ask = |key: u32| {
            let lookup = lookup.clone();
            asking.spawn(async move { assert_eq!(lookup.get(&key).await.unwrap(), Some(key * 2)) });
        };
        for first in 0..STATEMENTS_AT_ONCE {
            ask(first as u32);
            source.until(first + 1).await;
        }
        for key in [5, 6, 5, 7, 6] {
            ask(key);
        }
        while lookup.0.waiting().keys < 5 {
            tokio::task::yield_now().await;
        }
        source.permits.add_permits(3);
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
        assert_eq!(source.statements(), [vec![0], vec![1], vec![5, 6, 7]]);
        while lookup.0.waiting().statements > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_statement_asks_for_so_many() {
        let (source, lookup) = Source::new(100);
        let keys: Vec<u32> = (0..KEYS_AT_ONCE as u32 + 300).collect();
        let all = lookup.get_all(keys.clone()).await.unwrap();
        assert_eq!((all.len(), source.statements().len()), (keys.len(), 1), "one question is not split");
        let mut asking = tokio::task::JoinSet::new();
        lookup.forget(&keys);
        for key in keys.clone() {
            let lookup = lookup.clone();
            asking.spawn(async move { lookup.get(&key).await });
        }
        while asking.join_next().await.is_some() {}
        let sizes: Vec<usize> = source.statements()[1..].iter().map(Vec::len).collect();
        assert_eq!(sizes.iter().sum::<usize>(), keys.len());
        assert!(sizes.iter().all(|size| *size <= KEYS_AT_ONCE), "{sizes:?}");
    }

    #[tokio::test]
    async fn a_failure_is_everybodys_who_waited_for_it_and_ends_there() {
        let (_source, lookup) = Source::new(100);
        for (key, expected) in [(13, "panicked"), (14, "no"), (13, "panicked")] {
            let error = lookup.get(&key).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(lookup.get(&1).await.unwrap(), Some(2));
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (source, lookup) = Source::new(0);
        for first in 0..STATEMENTS_AT_ONCE {
            let lookup = lookup.clone();
            tokio::spawn(async move { lookup.get(&(first as u32)).await });
            source.until(first + 1).await;
        }
        let waiting = tokio::spawn({
            let lookup = lookup.clone();
            async move { lookup.get_all((0..MAX_WAITING as u32).collect()).await }
        });
        while lookup.0.waiting().keys == 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(lookup.get(&1).await, Err(StoreError::Unavailable(_))));
        source.permits.add_permits(100);
        waiting.await.unwrap().unwrap();
        assert_eq!(lookup.get(&1).await.unwrap(), Some(2));
    }
}
