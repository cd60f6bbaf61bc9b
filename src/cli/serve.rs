//! `carillon serve`: one node.

use std::future::Future;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Misconfigured, open_store};
use crate::account::{Role, Scope};
use crate::bus::Notifier;
use crate::config::ServeArgs;
use crate::http::server::{ConnectionLimits, Ending};
use crate::http::{Settings, health, router, server};
use crate::identity::{Accounts, random_secret};
use crate::node::Node;
use crate::store::Store;
use crate::ttl::{Ttl, TtlLimits};

/// Runs a node until it is told to stop by a signal.
pub(super) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    log_to_stderr();
    let listener = server::bind(args.listen)
        .map_err(|error| Misconfigured(format!("--listen {}: cannot listen there: {error}", args.listen)))?;
    let ending = Ending::default();
    if args.metrics_listen != "off" {
        tokio::spawn(metrics(&args.metrics_listen, ending.clone())?);
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve(args, listener, told, ending).await
}

/// Writes the log to standard error, as `RUST_LOG` says.
pub(super) fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "carillon=info,warn".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

/// Serves on `listener` until `told`; then drains.
async fn serve(
    args: ServeArgs,
    listener: TcpListener,
    told: impl Future<Output = ()>,
    ending: Ending,
) -> anyhow::Result<()> {
    let wrong = |error: &dyn std::fmt::Display| Misconfigured(error.to_string());
    let rules = args.topic_rules().map_err(Misconfigured)?;
    let store = open_store(&args.store, args.migrate).await?;
    let option = if args.ttl_url.is_some() { "--ttl-url" } else { "--bus-url" };
    let ttl = Ttl::open(args.ttl_url(), &TtlLimits::default())
        .map_err(|error| Misconfigured(format!("{option}: {}", error.0)))?;
    let address = listener.local_addr()?;
    if store.is_embedded() {
        let accounts = Accounts::new(store.clone(), ttl.clone(), Notifier::without_bus());
        greet(&store, &accounts, &format!("http://{address}")).await?;
    }
    let limits = args.node_limits();
    let settings = Settings {
        max_data_bytes: args.max_data_bytes,
        max_batch: limits.publish.batch,
        secure_cookies: args.secure_cookies,
        examples: !args.no_examples,
    };
    let node = Node::start(store, &args.bus_url, ttl, rules, limits).map_err(|e| wrong(&e))?;
    node.services.status.set_address(address);
    let router = router(node.services.clone(), settings)?;
    tracing::info!(%address, "listening");
    let connections = ConnectionLimits {
        max: args.max_connections,
        // A little longer than a stalled stream may last: that one is closed by name and counted.
        ack_timeout: Duration::from_secs(args.stall_seconds.saturating_add(30)),
    };
    let serving = tokio::spawn(server::serve(listener, router, connections, ending.clone()));
    tokio::select! {
        () = told => {
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

/// The metrics listener, on its own address.
fn metrics(address: &str, ending: Ending) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let wrong = |error: &dyn std::fmt::Display| {
        Misconfigured(format!("--metrics-listen {address}: cannot listen there: {error}"))
    };
    let parsed = address.parse().map_err(|e| wrong(&e))?;
    let listener = server::bind(parsed).map_err(|e| wrong(&e))?;
    let recorder = PrometheusBuilder::new().install_recorder()?;
    let router = health::metrics_router(recorder.clone());
    let upkeep = async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            recorder.run_upkeep();
        }
    };
    Ok(async move {
        tokio::select! {
            () = server::serve(listener, router, METRICS_CONNECTIONS, ending) => {}
            () = upkeep => {}
        }
    })
}

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
            token =
                accounts.create_token(user.id, "first try", &[Scope::Publish, Scope::Listen], None).await?.0;
        }
    }
    println!("\nOpen {address}/ and sign in. Then publish to everyone:\n");
    println!(
        "    curl {address}/api/v1/events -H 'Authorization: Bearer {token}' \
         -d '{{\"type\":\"notification\",\"to\":\"everyone\",\"data\":{{\"title\":\"It works\"}}}}'\n"
    );
    Ok(())
}
