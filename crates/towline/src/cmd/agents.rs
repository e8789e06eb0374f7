//! `towline agents`: the machines of the team.

use clap::Args;
use serde_json::json;

use crate::{cli::ClientArgs, client::types::text, cmd::Context, failure::Failure, output::Table};

const EXAMPLE: &str = "\
Example:
  towline agents
  towline agents -o json";

/// Arguments of `towline agents`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct AgentsArgs {
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Lists the agents.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn run(args: AgentsArgs, context: &Context) -> Result<(), Failure> {
    let agents = context.client(&args.client)?.list("/r/agents", "agent_list", &[]).await?;
    context.output.show(&json!({"agent_list": agents}), || {
        if agents.is_empty() {
            return "no agent has joined; `towline agent --server … --key ak-…` on a machine joins one".to_owned();
        }
        let mut table = Table::new(["NAME", "STATUS", "LABELS", "GPUS", "VERSION", "TRANSPORT", "ID", "ENGINE"]);
        for agent in &agents {
            let field = |name| text(agent, name);
            let [name, status, labels] = ["display_name", "agent_status", "labels"].map(field);
            let [gpus, version, id, engine] = ["gpu_count", "agent_version", "id", "engine_message"].map(field);
            let proxy = if agent["via_proxy"] == true { " by proxy" } else { "" };
            let transport = format!("{}{proxy}", field("transport"));
            table.row([name, status, labels, gpus, version, transport, id, engine]);
        }
        table.text()
    })
}
