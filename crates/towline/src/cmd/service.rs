//! `towline service`: the management API of services.

mod change;
pub mod fields;
mod logs;
mod look;
pub mod wait;

use std::time::Duration;

use clap::{Args, Subcommand, builder::BoolishValueParser};

use self::fields::FieldArgs;
use crate::{cli::ClientArgs, cmd::Context, failure::Failure, units::parse_duration};

const EXAMPLE: &str = "\
Example:
  towline service create hello --image towline-demo:latest --replicas 2
  towline service deploy hello
  towline service logs hello -f
  towline service list -o json";

/// Arguments of `towline service`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct ServiceArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Define a service. It runs after `towline service deploy`.
    Create(Box<change::CreateArgs>),
    /// List the team's services.
    List(ListArgs),
    /// Show a service and its instances.
    Show(ShowArgs),
    /// Change a service. It takes effect at the next deploy.
    Update(Box<change::UpdateArgs>),
    /// Run the service as it is defined now.
    Deploy(DeployArgs),
    /// Stop a service: finish the requests in flight, then end its instances.
    Undeploy(UndeployArgs),
    /// Replace every instance by a fresh one of the same definition.
    Restart(RestartArgs),
    /// Print what the containers wrote.
    Logs(logs::LogsArgs),
    /// Print what happened to a service, the oldest first.
    Events(EventsArgs),
    /// Forget a service that does not run.
    Delete(DeleteArgs),
}

const LIST_EXAMPLE: &str = "\
Example:
  towline service list
  towline service list -o json | jq -r '.container_list[].service_slug'";

#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLE)]
struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

const SHOW_EXAMPLE: &str = "\
Example:
  towline service show hello";

#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLE)]
struct ShowArgs {
    /// The service's slug or id.
    slug: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Whether and how long a command waits for its effect.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Wait until it is done, and fail when it fails [default: true on a terminal, else false].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    wait: Option<bool>,
    /// How long to wait: a number with ms, s, m or h. What was started goes on after that.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10m")]
    timeout: Duration,
}

impl WaitArgs {
    /// How long to wait; `None` when not at all.
    pub fn time(&self, context: &Context) -> Option<Duration> {
        self.wait.unwrap_or_else(|| context.output.is_interactive()).then_some(self.timeout)
    }
}

const DEPLOY_EXAMPLE: &str = "\
Example:
  towline service deploy hello
  towline service deploy hello --wait --timeout 5m    # in a script";

#[derive(Debug, Args)]
#[command(after_help = DEPLOY_EXAMPLE)]
struct DeployArgs {
    /// The service's slug or id.
    slug: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    client: ClientArgs,
}

const UNDEPLOY_EXAMPLE: &str = "\
Example:
  towline service undeploy hello
  towline service undeploy hello --wait && towline service delete hello";

#[derive(Debug, Args)]
#[command(after_help = UNDEPLOY_EXAMPLE)]
struct UndeployArgs {
    /// The service's slug or id.
    slug: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    client: ClientArgs,
}

const RESTART_EXAMPLE: &str = "\
Example:
  towline service restart hello";

#[derive(Debug, Args)]
#[command(after_help = RESTART_EXAMPLE)]
struct RestartArgs {
    /// The service's slug or id.
    slug: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    client: ClientArgs,
}

const EVENTS_EXAMPLE: &str = "\
Example:
  towline service events hello --limit 20";

#[derive(Debug, Args)]
#[command(after_help = EVENTS_EXAMPLE)]
struct EventsArgs {
    /// The service's slug or id.
    slug: String,
    /// How many of the newest events, 1 to 100.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=100))]
    limit: u16,
    #[command(flatten)]
    client: ClientArgs,
}

const DELETE_EXAMPLE: &str = "\
Example:
  towline service undeploy hello --wait
  towline service delete hello";

#[derive(Debug, Args)]
#[command(after_help = DELETE_EXAMPLE)]
struct DeleteArgs {
    /// The service's slug or id.
    slug: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Does what was asked with services.
///
/// # Errors
/// When the server cannot be reached or refuses, or when what was waited for failed.
pub async fn run(args: ServiceArgs, context: &Context) -> Result<(), Failure> {
    match args.verb {
        Verb::Create(args) => change::create(&args, context).await,
        Verb::Update(args) => change::update(&args, context).await,
        Verb::List(args) => look::list(&args.client, context).await,
        Verb::Show(args) => look::show(&args.client, &args.slug, context).await,
        Verb::Events(args) => look::events(&args.client, &args.slug, args.limit, context).await,
        Verb::Logs(args) => logs::run(&args, context).await,
        Verb::Deploy(args) => change::deploy(&args.client, &args.slug, &args.wait, context).await,
        Verb::Restart(args) => change::restart(&args.client, &args.slug, &args.wait, context).await,
        Verb::Undeploy(args) => change::undeploy(&args.client, &args.slug, &args.wait, context).await,
        Verb::Delete(args) => change::delete(&args.client, &args.slug, context).await,
    }
}
