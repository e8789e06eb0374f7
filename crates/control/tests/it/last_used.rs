//! When a key was last used: written down behind the requests.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use towline_gateway::testing::{SimAgent, within};
use towline_model::{CredentialId, Timestamp};
use towline_store::{Store, StoreOptions};

use crate::support::{TestServer, start};

async fn keys(server: &TestServer) -> Vec<Value> {
    let list = server.get(&server.owner(), "/api/v1/credentials?per_page=100").await.json(200);
    list["credentials"].as_array().unwrap().clone()
}

/// What the list says of a key, once it was used.
async fn used(server: &TestServer, name: &str) -> Timestamp {
    let ask = async {
        loop {
            let keys = keys(server).await;
            let key = keys.iter().find(|key| key["display_name"] == name).unwrap();
            if let Some(at) = key["last_used_at"].as_str() {
                return Timestamp::parse(at).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the time of use", ask).await
}

#[tokio::test]
async fn every_kind_of_key_is_told_when_it_was_used() {
    let server = TestServer::start_with(|config| config.last_used_interval = Duration::from_millis(10)).await;
    assert!(keys(&server).await.iter().all(|key| key["last_used_at"].is_null()));
    let before = keys(&server).await.iter().map(|key| key["created_at"].as_str().unwrap().to_owned()).max().unwrap();
    server.get(&server.key("sk-read"), "/api/v1/r/containers").await.json(200);
    server.get(&server.key("dk"), "/api/v1/containers").await.json(200);
    let agent_key = &server.ours.keys["ak"];
    let _agent = SimAgent::connect(server.server.addr(), agent_key, SimAgent::hello("one")).await.unwrap();
    for name in ["sk-read", "dk", "ak"] {
        assert!(used(&server, name).await >= Timestamp::parse(&before).unwrap(), "{name}");
    }
    // A call of a service, in the gateway: that the service is unknown makes no difference.
    let mut socket = TcpStream::connect(server.server.addr()).await.unwrap();
    let key = &server.ours.keys["sk-invoke"];
    let head = "GET /api/v1/r/containers/no-such/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer";
    socket.write_all(format!("{head} {key}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", socket.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    used(&server, "sk-invoke").await;
    let unused = keys(&server).await.iter().filter(|key| key["last_used_at"].is_null()).count();
    assert_eq!(unused, 2, "sk and sk-manage");
}

#[tokio::test]
async fn a_key_is_in_use_as_long_as_its_agent_is_connected() {
    let server = TestServer::start_with(|config| config.last_used_interval = Duration::from_millis(10)).await;
    let agent_key = &server.ours.keys["ak"];
    let agent = SimAgent::connect(server.server.addr(), agent_key, SimAgent::hello("one")).await.unwrap();
    let first = used(&server, "ak").await;
    let later = async { while used(&server, "ak").await <= first {} };
    within("a later time of use", later).await;
    drop(agent);
}

#[tokio::test]
async fn what_was_used_last_is_written_down_at_the_end() {
    let server = TestServer::start().await;
    let id: CredentialId = {
        let keys = keys(&server).await;
        keys.iter().find(|key| key["display_name"] == "sk").unwrap()["id"].as_str().unwrap().parse().unwrap()
    };
    server.get(&server.key("sk"), "/api/v1/containers").await.json(200);
    // A change of keys makes new tables; the use is not forgotten with the old ones.
    let wished = serde_json::json!({"kind": "agent", "display_name": "x"});
    server.post(&server.owner(), "/api/v1/credentials", &wished).await.json(201);
    let (config, team) = (server.config.clone(), server.ours.id);
    let _data = server.stop().await;
    let store = Store::connect(&config.database_url, StoreOptions::default()).await.unwrap();
    let row = store.read().await.unwrap().find_credential(team, id).await.unwrap().unwrap();
    let at = row.last_used_at.unwrap();
    store.close().await;
    // Nobody uses it in the next life of the server: the time stays.
    start(&config).await.shutdown().await;
    let store = Store::connect(&config.database_url, StoreOptions::default()).await.unwrap();
    let row = store.read().await.unwrap().find_credential(team, id).await.unwrap().unwrap();
    assert_eq!(row.last_used_at, Some(at));
}
