//! `carillon migrate`: the database's schema.

use clap::Args;

use crate::config::StoreArgs;

/// What to bring up to date, and how far.
#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Also write what older versions cannot read: no node of an older version starts afterwards
    #[arg(long)]
    finish: bool,
}

/// Migrates and prints what was done.
pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<()> {
    super::serve::log_to_stderr();
    let store = args.store.open().await?;
    let done = store.migrate().await?;
    match done.added {
        0 => println!("The schema is up to date."),
        added => println!("Added {added} migrations; the schema is up to date."),
    }
    if done.filled > 0 {
        println!("Brought what was there into its new form: {} events looked at.", done.filled);
    }
    let finished = args.finish && store.finish().await?;
    match (done.finished || finished, store.log_state().await?.forms < crate::store::FORMS) {
        (true, _) => println!("Finished: new forms are written, and older versions do not start any more."),
        (false, false) => println!("It is finished: older versions do not start."),
        (false, true) => println!(
            "Older versions may go on and be started. Once no node of one is left: carillon migrate --finish"
        ),
    }
    Ok(())
}
