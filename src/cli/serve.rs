//! `carillon serve`: one node.

use std::future::Future;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::config::open_keys;
use super::{Misconfigured, check_schema, create_store};
use crate::account::{Role, Scope};
use crate::bus::Notifier;
use crate::config::{MetricsListen, ServeArgs};
use crate::http::server::{ConnectionLimits, Ending};
use crate::http::{Settings, health, router, server};
use crate::identity::{Accounts, random_secret};
use crate::node::Node;
use crate::store::Store;

/// Runs a node until a signal asks it to stop.
pub(super) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    log_to_stderr();
    let listener = server::bind(args.listen)
        .map_err(|error| Misconfigured(format!("--listen {}: cannot listen there: {error}", args.listen)))?;
    let ending = Ending::default();
    if let MetricsListen::At(address) = args.metrics_listen {
        tokio::spawn(metrics(address, ending.clone())?);
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stop);
    let node = tokio::select! {
        node = start(&args, &listener) => node?,
        // Nobody is here yet: there is nothing to drain.
        () = &mut stop => return Ok(()),
    };
    serve(&args, node, listener, stop, ending).await
}

/// What is logged says `RUST_LOG`: levels by module, such as `carillon=debug,warn`.
pub(super) fn log_to_stderr() {
    let filter: Targets = std::env::var("RUST_LOG")
        .ok()
        .and_then(|levels| levels.parse().ok())
        .unwrap_or_else(|| Targets::new().with_target("carillon", Level::INFO).with_default(Level::WARN));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_filter(filter);
    tracing_subscriber::registry().with(lines).init();
}

/// Opens what a node stands on, and starts it.
async fn start(args: &ServeArgs, listener: &TcpListener) -> anyhow::Result<Node> {
    let rules = args.topic_rules().map_err(Misconfigured)?;
    let store = create_store(&args.store).await?;
    if args.migrate || store.is_embedded() {
        store.migrate().await?;
    } else {
        check_schema(&store).await?;
    }
    let ttl = open_keys(args)?;
    let address = listener.local_addr()?;
    if store.is_embedded() {
        let accounts = Accounts::new(store.clone(), ttl.clone(), Notifier::without_bus());
        greet(&store, &accounts, &format!("http://{address}")).await?;
    }
    let node = Node::start(store, args.bus_url.reveal(), ttl, rules, args.node_limits())
        .map_err(|error| Misconfigured(error.to_string()))?;
    node.services.status.set_address(address);
    Ok(node)
}

/// Serves on `listener` until `stop`; then drains.
async fn serve(
    args: &ServeArgs,
    node: Node,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
    ending: Ending,
) -> anyhow::Result<()> {
    let settings = Settings {
        max_data_bytes: args.max_data_bytes,
        max_batch: args.node_limits().publish.batch,
        secure_cookies: args.secure_cookies,
        examples: !args.no_examples,
    };
    let router = router(node.services.clone(), settings)?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let connections = ConnectionLimits {
        max: args.max_connections,
        // A little longer than a stalled stream may last: that one is closed by name and counted.
        ack_timeout: Duration::from_secs(args.stall_seconds.saturating_add(30)),
    };
    let serving = tokio::spawn(server::serve(listener, router, connections, ending.clone()));
    tokio::select! {
        () = stop => {
            tracing::info!("draining");
            ending.draining.cancel();
            node.drain().await;
        }
        () = node.services.readiness.stopped() => anyhow::bail!("a task of this node ended; see above"),
    }
    ending.stop.cancel();
    serving.await.context("the accept loop failed")?;
    node.stop();
    Ok(())
}

/// Bounds on those who ask for metrics.
const METRICS_CONNECTIONS: ConnectionLimits =
    ConnectionLimits { max: 64, ack_timeout: Duration::from_secs(30) };

/// The bounds of each histogram's buckets. One that is not here would be a summary.
const HISTOGRAMS: [(&str, &[f64]); 3] = [
    ("carillon_append_events", &SIZES),
    ("carillon_received_to_committed_seconds", &STAGES),
    ("carillon_committed_to_announced_seconds", &STAGES),
];

/// Events.
const SIZES: [f64; 10] = [1., 2., 4., 8., 16., 32., 64., 128., 256., 512.];

/// Seconds that a stage of an event's way takes.
const STAGES: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1., 5.];

/// How often a metrics address that is taken is tried again.
const METRICS_RETRY: Duration = Duration::from_secs(10);

/// The metrics listener, on its own address. One that is taken costs the metrics until it is free, never the node: many
/// programs have a port for Prometheus.
fn metrics(address: SocketAddr, ending: Ending) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let mut builder = PrometheusBuilder::new();
    for (name, bounds) in HISTOGRAMS {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)?;
    }
    let recorder = builder.install_recorder()?;
    let router = health::metrics_router(recorder.clone());
    let upkeep = async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            recorder.run_upkeep();
        }
    };
    let serving = async move {
        let listener = bind_metrics(address).await;
        server::serve(listener, router, METRICS_CONNECTIONS, ending).await;
    };
    Ok(async move {
        tokio::select! {
            () = serving => {}
            () = upkeep => {}
        }
    })
}

/// Listens at `address`, as soon as that is free.
async fn bind_metrics(address: SocketAddr) -> TcpListener {
    let mut failures = 0_u64;
    loop {
        match server::bind(address) {
            Ok(listener) => {
                if failures > 0 {
                    tracing::info!(%address, failures, "metrics are served now");
                }
                return listener;
            }
            Err(error) => {
                metrics::counter!("carillon_metrics_listen_failures_total").increment(1);
                if failures == 0 {
                    let again = METRICS_RETRY.as_secs();
                    tracing::warn!(
                        "--metrics-listen {address}: cannot listen there: {error}; metrics are not served; tried again every {again} s"
                    );
                }
                failures += 1;
                tokio::time::sleep(METRICS_RETRY).await;
            }
        }
    }
}

/// How long the token of the first start is valid.
const FIRST_TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);

/// On an empty embedded store: demo accounts, shown once, with a line that publishes.
async fn greet(store: &Store, accounts: &Accounts, address: &str) -> anyhow::Result<()> {
    if !store.users("", 1).await?.is_empty() {
        return Ok(());
    }
    println!("A new store. These accounts were made for you; the passwords are shown only now:\n");
    let mut token = String::new();
    for (name, role) in [("admin", Role::Admin), ("alice", Role::Listener), ("bob", Role::Listener)] {
        let password = random_secret()[..16].to_owned();
        let user = accounts.create(name, &password, role).await?;
        println!("    {name:<6} {password}");
        if role == Role::Admin {
            let lifetime = Some(FIRST_TOKEN_LIFETIME);
            token = accounts.create_token(user.id, "first try", &[Scope::Publish], lifetime).await?.0;
        }
    }
    println!(
        "\nOpen {address}/ and sign in. Then publish to everyone; this token permits publishing only, for one day:\n"
    );
    println!(
        "    curl {address}/api/v1/events -H 'Authorization: Bearer {token}' \
         -d '{{\"type\":\"notification\",\"to\":\"everyone\",\"data\":{{\"title\":\"It works\"}}}}'\n"
    );
    Ok(())
}
