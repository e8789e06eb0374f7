//! What can be measured, as whoever scrapes it sees it.

use towline_e2e::system::{Server, ServerOptions};

use crate::attached::{LocalProcess, agent_without_engine, attached};

#[tokio::test]
async fn metrics_are_served_where_they_are_wanted_and_nowhere_else() {
    let arguments = ["--metrics-listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
    let mut server = Server::start_with(ServerOptions { arguments, ..ServerOptions::default() }).await;
    let _agent = agent_without_engine(&server, "bare", &[]).await;
    let demo = LocalProcess::start().await;
    let mut one_at_a_time = attached("demo", &demo.target());
    one_at_a_time["max_concurrent_requests"] = 1.into();
    let owner = server.owner().await;
    let id = owner.create_service(&one_at_a_time).await;
    owner.deploy(&id).await;
    owner.wait_for_ready(&id, 1).await;
    server.api().get("/r/containers/demo/echo").await.expect(200);

    server.process.wait_for_output("serving metrics at ").await;
    let output = server.process.output();
    let url = output.split("serving metrics at ").nth(1).unwrap().split_whitespace().next().unwrap();
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text().await.unwrap();
    let labels = format!("team=\"{}\",service=\"demo\"", server.bootstrap.team_id);
    for line in [format!("towline_line_wait_seconds_count{{{labels}}} 1"), "towline_agent_sessions 1".to_owned()] {
        assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
    }
    let elsewhere = format!("http://{}/metrics", server.api().address());
    assert_eq!(reqwest::get(elsewhere).await.unwrap().status(), 404);
}
