//! A real Chromium, its tabs, and the network between it and the nodes.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chromiumoxide::browser::{Browser as Chromium, BrowserConfig};
use chromiumoxide::cdp::browser_protocol::emulation::{
    MediaFeature, SetDeviceMetricsOverrideParams, SetEmulatedMediaParams,
};
use chromiumoxide::cdp::browser_protocol::log::EventEntryAdded;
use chromiumoxide::cdp::browser_protocol::network::{
    BlockPattern, ClearBrowserCacheParams, EmulateNetworkConditionsByRuleParams,
    EnableParams as NetworkEnableParams, NetworkConditions, SetBlockedUrLsParams,
};
use chromiumoxide::cdp::browser_protocol::page::CrashParams;
use chromiumoxide::cdp::js_protocol::runtime::{EvaluateParams, EventConsoleApiCalled, EventExceptionThrown};
use chromiumoxide::page::{Page, ScreenshotParams};
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::node::Node;
use crate::support::{DEADLINE, wait_until};

/// A Chromium with a profile of its own. Ends when dropped.
pub struct Browser {
    chromium: Chromium,
    handler: JoinHandle<()>,
    complaints: Arc<Mutex<Vec<String>>>,
    _profile: TempDir,
}

impl Browser {
    /// Starts one.
    pub async fn start() -> Self {
        let profile = TempDir::new().unwrap();
        let config = BrowserConfig::builder()
            .chrome_executable("/usr/bin/chromium")
            .user_data_dir(profile.path())
            .new_headless_mode()
            .launch_timeout(DEADLINE)
            .request_timeout(DEADLINE)
            // Containers and root have no sandbox; what runs here are pages of our own.
            .no_sandbox()
            .build()
            .unwrap();
        let (chromium, mut events) = Chromium::launch(config).await.expect("chromium must be installed");
        let handler = tokio::spawn(async move { while events.next().await.is_some() {} });
        Self { chromium, handler, complaints: Arc::default(), _profile: profile }
    }

    /// Opens a tab there.
    pub async fn open(&self, address: &str) -> Tab {
        let page = self.chromium.new_page("about:blank").await.unwrap();
        let console = page.event_listener::<EventConsoleApiCalled>().await.unwrap();
        let thrown = page.event_listener::<EventExceptionThrown>().await.unwrap();
        let logged = page.event_listener::<EventEntryAdded>().await.unwrap();
        let complaints = self.complaints.clone();
        let mut all = futures_util::stream::select_all([
            console.map(|event| json!(*event)).boxed(),
            thrown.map(|event| json!(*event)).boxed(),
            logged.map(|event| json!(*event)).boxed(),
        ]);
        tokio::spawn(async move {
            while let Some(event) = all.next().await {
                complaints.lock().unwrap().push(event.to_string());
            }
        });
        page.goto(address).await.unwrap();
        Tab { page }
    }

    /// That no page has written to the console, save of requests that failed by `design`.
    pub fn assert_quiet(&self, design: &[&str]) {
        let complaints = self.complaints.lock().unwrap();
        let loud = complaints.iter().filter(|line| !design.iter().any(|expected| line.contains(expected)));
        assert_eq!(loud.collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(child) = self.chromium.get_mut_child() {
            let _ = child.inner.start_kill();
        }
        self.handler.abort();
    }
}

/// One tab.
pub struct Tab {
    page: Page,
}

impl Tab {
    /// The value of an expression, promises awaited. What goes wrong in it fails the test.
    pub async fn eval(&self, expression: &str) -> Value {
        self.try_eval(expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    async fn try_eval(&self, expression: &str) -> Result<Value, String> {
        let mut question = EvaluateParams::new(expression);
        question.await_promise = Some(true);
        question.return_by_value = Some(true);
        let answer = self.page.evaluate_expression(question).await.map_err(|error| error.to_string())?;
        Ok(answer.value().cloned().unwrap_or(Value::Null))
    }

    /// Waits until an expression is true; a page that is just being left is asked again.
    pub async fn until(&self, expression: &str) {
        let begun = std::time::Instant::now();
        loop {
            // A question to a page that is going away may never be answered.
            let asked = tokio::time::timeout(Duration::from_secs(5), self.try_eval(expression)).await;
            if matches!(asked, Ok(Ok(Value::Bool(true)))) {
                return;
            }
            if begun.elapsed() > DEADLINE {
                let seen = self.try_eval(
                    "JSON.stringify({ at: location.href, states: window.states, got: window.got })",
                );
                panic!("not within {DEADLINE:?}: {expression}; {asked:?}; {:?}", seen.await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Signs in as `name` on the page shown.
    pub async fn sign_in(&self, name: &str) {
        let body = json!({ "name": name, "password": format!("password of {name}") }).to_string();
        let status = self
            .eval(&format!(
                "fetch('/api/v1/session', {{ method: 'POST', body: {} }}).then((a) => a.status)",
                json!(body)
            ))
            .await;
        assert_eq!(status, 204);
    }

    /// Uses the client on the page shown: `got` is the events' data, `states` and `resets` what it said.
    pub async fn connect(&self, options: &Value) {
        self.eval(&format!(
            "import('/static/carillon.js').then(({{ connect }}) => {{
                Object.assign(window, {{ got: [], states: [], resets: [] }});
                window.carillon = connect({options});
                carillon.on('event', (event) => got.push(event.data));
                carillon.on('state', (state) => states.push(state.state));
                carillon.on('reset', (reset) => resets.push(reset.reason));
            }})"
        ))
        .await;
    }

    /// Waits until it is live.
    pub async fn live(&self) {
        self.until("carillon.state === 'live'").await;
    }

    /// Waits until the page shown says that it is live.
    pub async fn page_live(&self) {
        self.until("document.getElementById('pill').dataset.state === 'live'").await;
    }

    /// Waits for the last of these events and checks that exactly they came, in this order.
    pub async fn has_got(&self, numbers: impl IntoIterator<Item = i64>) {
        let wanted = json!(numbers.into_iter().collect::<Vec<_>>());
        self.until(&format!("got.length >= {}", wanted.as_array().unwrap().len())).await;
        assert_eq!(self.eval("got").await, wanted);
    }

    /// Goes there, in the same tab.
    pub async fn go(&self, address: &str) {
        self.page.goto(address).await.unwrap();
    }

    /// Reloads it.
    pub async fn reload(&self) {
        self.page.reload().await.unwrap();
    }

    /// Types where the focus is.
    pub async fn type_text(&self, text: &str) {
        self.page.find_element("body").await.unwrap().type_str(text).await.unwrap();
    }

    /// Presses a key where the focus is, named as in `KeyboardEvent.key`.
    pub async fn press(&self, key: &str) {
        self.page.bring_to_front().await.unwrap();
        self.page.find_element("body").await.unwrap().press_key(key).await.unwrap();
    }

    /// Clicks in the middle of what a selector finds.
    pub async fn click(&self, selector: &str) {
        // Behind another tab there is no mouse.
        self.page.bring_to_front().await.unwrap();
        self.page.find_element(selector).await.unwrap().click().await.unwrap();
    }

    /// Goes back in the tab's history.
    pub async fn back(&self) {
        self.eval("history.back()").await;
    }

    /// Looks at it through a window of this size, in the dark or in the light.
    pub async fn look(&self, (width, height): (i64, i64), scheme: &str) {
        let is_phone = width < 500;
        let metrics = SetDeviceMetricsOverrideParams::new(width, height, 1.0, is_phone);
        self.page.execute(metrics).await.unwrap();
        let feature = MediaFeature::new("prefers-color-scheme", scheme);
        self.page.execute(SetEmulatedMediaParams::builder().feature(feature).build()).await.unwrap();
    }

    /// Keeps what is in the window as a picture.
    pub async fn save_picture(&self, path: &Path) {
        self.page.save_screenshot(ScreenshotParams::builder().build(), path).await.unwrap();
    }

    /// From now on no script is loaded in this tab.
    pub async fn block_scripts(&self) {
        self.page.execute(NetworkEnableParams::default()).await.unwrap();
        let scripts = BlockPattern::new("*://*:*/*.js", true);
        self.page.execute(SetBlockedUrLsParams::builder().url_pattern(scripts).build()).await.unwrap();
    }

    /// From now on what it sends goes over the wire at so many bytes a second; as fast as it can if that is negative.
    pub async fn throttle_uploads(&self, bytes_a_second: f64) {
        self.page.execute(NetworkEnableParams::default()).await.unwrap();
        let slow = NetworkConditions::new("", 0.0, -1.0, bytes_a_second);
        let slow = EmulateNetworkConditionsByRuleParams::new(false, vec![slow]);
        self.page.execute(slow).await.unwrap();
    }

    /// Forgets what was loaded before.
    pub async fn clear_cache(&self) {
        self.page.execute(ClearBrowserCacheParams::default()).await.unwrap();
    }

    /// Has its process crash.
    pub async fn crash(self) {
        // Nobody is left to answer.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.page.execute(CrashParams {})).await;
    }

    /// Closes it.
    pub async fn close(self) {
        self.page.close().await.unwrap();
    }
}

/// What stands before nodes as a balancer would: one address, behind which nodes can be exchanged, and a network that
/// can be cut so that nobody notices.
pub struct Relay {
    /// `http://127.0.0.1:port`.
    pub address: String,
    to: watch::Sender<Option<String>>,
    task: JoinHandle<()>,
}

impl Relay {
    /// To the node at `address`.
    pub async fn start(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let to = watch::Sender::new(Some(host(address)));
        let task = tokio::spawn(accept(listener, to.subscribe()));
        Self { address: own, to, task }
    }

    /// New connections go there from now on; those there are stay.
    pub fn switch(&self, address: &str) {
        self.to.send_replace(Some(host(address)));
    }

    /// From now on nothing passes, and nothing is closed: that would be noticed.
    pub fn freeze(&self) {
        self.to.send_replace(None);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn host(address: &str) -> String {
    address.trim_start_matches("http://").to_owned()
}

async fn accept(listener: TcpListener, to: watch::Receiver<Option<String>>) {
    while let Ok((mut browser, _)) = listener.accept().await {
        let mut to = to.clone();
        tokio::spawn(async move {
            let Ok(target) = to.wait_for(Option::is_some).await.map(|target| target.clone().unwrap()) else {
                return;
            };
            let Ok(mut node) = TcpStream::connect(target).await else { return };
            let passing = tokio::io::copy_bidirectional(&mut browser, &mut node).map(|_| ());
            tokio::select! {
                () = passing => return,
                _ = to.wait_for(Option::is_none) => {}
            }
            std::future::pending::<()>().await;
        });
    }
}

/// Waits until the node has this many streams.
pub async fn until_listeners(node: &Node, count: u32) {
    let is_so = async || node.metric("carillon_listeners").await == f64::from(count);
    wait_until(DEADLINE, &format!("{count} streams are open"), is_so).await;
}
