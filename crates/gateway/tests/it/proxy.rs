//! What the proxy keeps and what it changes (contract §6).

use towline_gateway::testing::{Container, World};

#[tokio::test]
async fn a_request_reaches_the_container_and_its_answer_comes_back() {
    let container = Container::answering("HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 2\r\n\r\nhi").await;
    let world = World::start().await;
    let (team, _agent, _) = world.hello(&container).await;
    let answer = world.get(&team.key, "/api/v1/r/containers/hello/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), "hi");
    assert_eq!(answer.all("x-a"), ["1", "2"]);
}
