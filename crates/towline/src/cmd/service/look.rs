//! Commands that only look: list, show, events.

use serde_json::{Value, json};

use super::wait;
use crate::{
    cli::ClientArgs,
    client::{
        Service,
        types::{InstanceView, text},
    },
    cmd::Context,
    failure::Failure,
    output::Table,
};

/// Lists the services.
pub async fn list(client: &ClientArgs, context: &Context) -> Result<(), Failure> {
    let services = context.client(client)?.services().await?;
    let json: Vec<_> = services.iter().map(|service| &service.json).collect();
    context.output.show(&json!({"container_list": json}), || list_text(&services))
}

/// Shows one service and its instances.
pub async fn show(client: &ClientArgs, slug: &str, context: &Context) -> Result<(), Failure> {
    let client = context.client(client)?;
    let service = client.service(slug).await?;
    let list = client.list(&format!("/containers/{}/instances", service.view.id), "instance_list", &[]).await?;
    let instances = wait::views(&list)?;
    let mut json = service.json.clone();
    json["instance_list"] = Value::Array(list);
    let url = client.url(&format!("/r/containers/{}/", service.view.service_slug));
    context.output.show(&json, || show_text(&service, &instances, &url))
}

/// Prints what happened to a service, the oldest first.
pub async fn events(client: &ClientArgs, slug: &str, limit: u16, context: &Context) -> Result<(), Failure> {
    let client = context.client(client)?;
    let service = client.service(slug).await?;
    let query = [("per_page", limit.to_string())];
    let answer: Value = client.get(&format!("/containers/{}/events", service.view.id), &query).await?;
    let mut events = answer.get("event_list").and_then(Value::as_array).cloned().unwrap_or_default();
    events.reverse();
    context.output.show(&json!({"event_list": events}), || {
        let mut table = Table::new(["TIME", "EVENT", "WHAT HAPPENED"]);
        for event in &events {
            table.row(["at", "kind", "message"].map(|field| text(event, field)));
        }
        table.text()
    })
}

fn list_text(services: &[Service]) -> String {
    if services.is_empty() {
        return "no services yet; towline service create --help shows how to define one".to_owned();
    }
    let mut table = Table::new(["SLUG", "STATUS", "READY", "IMAGE", "REASON"]);
    for Service { view, .. } in services {
        let image = view.docker_image.clone().unwrap_or_default();
        let reason = view.status_reason.clone().unwrap_or_default();
        table.row([view.service_slug.clone(), view.service_status.clone(), view.ready(), image, reason]);
    }
    table.text()
}

fn show_text(service: &Service, instances: &[InstanceView], url: &str) -> String {
    const HIDDEN: [&str; 4] = ["service_status", "status_reason", "instances_total", "instances_ready"];
    let view = &service.view;
    let mut table = Table::new(["FIELD", "VALUE"]);
    let status = match &view.status_reason {
        Some(reason) => format!("{}: {reason}", view.service_status),
        None => view.service_status.clone(),
    };
    table.row(["status".to_owned(), status]);
    table.row(["ready".to_owned(), view.ready()]);
    table.row(["url".to_owned(), url.to_owned()]);
    for (field, value) in service.fields() {
        let shown = match field.as_str() {
            "env_config" => entries(value, env_text),
            "volume_config" => entries(value, volume_text),
            _ => text(&service.json, field),
        };
        let is_empty = shown.is_empty() || matches!(value, Value::Object(map) if map.is_empty());
        if !HIDDEN.contains(&field.as_str()) && !is_empty {
            table.row([field.clone(), shown]);
        }
    }
    if instances.is_empty() {
        return table.text();
    }
    let mut list = Table::new(["INSTANCE", "PHASE", "AGENT", "RESTARTS", "REASON"]);
    for instance in instances {
        let InstanceView { id, phase, agent_name, reason, restart_count, .. } = instance.clone();
        list.row([id, phase, agent_name.unwrap_or_default(), restart_count.to_string(), reason.unwrap_or_default()]);
    }
    format!("{}\n\n{}", table.text(), list.text())
}

fn entries(list: &Value, text: impl Fn(&Value) -> String) -> String {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn env_text(entry: &Value) -> String {
    let value = match &entry["secret_id"] {
        Value::String(id) => format!("(secret {id})"),
        _ => text(entry, "env_value"),
    };
    format!("{}={value}", text(entry, "env_name"))
}

fn volume_text(mount: &Value) -> String {
    let read_only = if mount["read_only"] == true { ":ro" } else { "" };
    format!("{}:{}{read_only}", text(mount, "host_path"), text(mount, "container_path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(slug: &str, status: &str) -> Service {
        json!({
            "id": "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77", "service_slug": slug, "service_status": status,
            "docker_image": "towline-demo:latest", "replica_count": 2, "instances_ready": 1, "required_labels": ["gpu", "eu"],
            "env_config": [{"env_name": "MODEL", "env_value": "llama3"}, {"env_name": "A", "env_value": ""}, {"env_name": "B", "secret_id": "0193"}],
            "volume_config": [{"host_path": "/a", "container_path": "/b", "read_only": true}],
            "usage_prompt": null, "command": [],
        })
        .try_into()
        .unwrap()
    }

    #[test]
    fn a_list_is_a_table() {
        insta::assert_snapshot!(list_text(&[service("hello", "running"), service("a-much-longer-slug", "created")]), @"
        SLUG                STATUS   READY  IMAGE                REASON
        hello               running  1/2    towline-demo:latest
        a-much-longer-slug  created  1/2    towline-demo:latest
        ");
        insta::assert_snapshot!(
            list_text(&[]),
            @"no services yet; towline service create --help shows how to define one"
        );
    }

    #[test]
    fn a_service_shows_its_fields_and_instances() {
        let instance = InstanceView {
            id: "01932c07-8a4e-7bbd-9c45-2f4b1f0d3a78".to_owned(),
            phase: "ready".to_owned(),
            generation: 1,
            agent_name: Some("lab".to_owned()),
            reason: None,
            restart_count: 3,
        };
        let text =
            show_text(&service("hello", "running"), &[instance], "http://127.0.0.1:7070/api/v1/r/containers/hello/");
        insta::assert_snapshot!(text, @"
        FIELD            VALUE
        status           running
        ready            1/2
        url              http://127.0.0.1:7070/api/v1/r/containers/hello/
        docker_image     towline-demo:latest
        env_config       MODEL=llama3, A=, B=(secret 0193)
        id               01932c07-8a4e-7bbd-9c45-2f4b1f0d3a77
        replica_count    2
        required_labels  gpu, eu
        service_slug     hello
        volume_config    /a:/b:ro

        INSTANCE                              PHASE  AGENT  RESTARTS  REASON
        01932c07-8a4e-7bbd-9c45-2f4b1f0d3a78  ready  lab    3
        ");
    }
}
