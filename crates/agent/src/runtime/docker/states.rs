//! The engine's words for the state of a container, as Docker says them.
//!
//! Podman has states of its own that Docker's API does not know, and tells them there too. The client understands nothing of a
//! list in which one of them stands, so such an answer is read once more in Docker's words. What that makes no better is the
//! client's error as before.

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerInspectResponse, ContainerSummary},
    query_parameters::{InspectContainerOptions, ListContainersOptions},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Lists containers.
pub(crate) async fn list(docker: &Docker, options: ListContainersOptions) -> Result<Vec<ContainerSummary>, Error> {
    understand(docker.list_containers(Some(options)).await, translate_list)
}

/// Tells all about one container.
pub(crate) async fn inspect(docker: &Docker, container: &str) -> Result<ContainerInspectResponse, Error> {
    understand(docker.inspect_container(container, None::<InspectContainerOptions>).await, translate_container)
}

fn understand<T: DeserializeOwned>(answer: Result<T, Error>, translate: impl FnOnce(&mut Value)) -> Result<T, Error> {
    let Err(Error::JsonDataError { contents, .. }) = &answer else { return answer };
    let Ok(mut value) = serde_json::from_str(contents) else { return answer };
    translate(&mut value);
    serde_json::from_value(value).or(answer)
}

fn translate_list(list: &mut Value) {
    let containers = list.as_array_mut().into_iter().flatten();
    containers.filter_map(|container| container.get_mut("State")).for_each(translate_state);
}

fn translate_container(container: &mut Value) {
    container.pointer_mut("/State/Status").into_iter().for_each(translate_state);
}

/// The states of Podman's `define.ContainerStatus`.
fn translate_state(state: &mut Value) {
    let dockers = match state.as_str() {
        Some("configured" | "initialized") => "created",
        // Asked to stop, and not stopped yet.
        Some("stopping") => "running",
        // Stopped, and not cleaned up yet.
        Some("stopped") => "exited",
        _ => return,
    };
    *state = dockers.into();
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerStateStatusEnum, ContainerSummaryStateEnum};
    use serde_json::json;

    use super::*;

    /// An answer as the client takes it.
    fn answer<T: DeserializeOwned>(body: &Value) -> Result<T, Error> {
        serde_json::from_value(body.clone()).map_err(|error: serde_json::Error| Error::JsonDataError {
            message: error.to_string(),
            contents: body.to_string(),
            column: 0,
        })
    }

    fn listed(states: &[&str]) -> Result<Vec<ContainerSummaryStateEnum>, Error> {
        let body = states.iter().map(|state| json!({"Id": "c", "State": state})).collect::<Value>();
        let list = understand(answer::<Vec<ContainerSummary>>(&body), translate_list)?;
        Ok(list.into_iter().filter_map(|container| container.state).collect())
    }

    #[test]
    fn podmans_states_are_read_in_dockers_words() {
        use ContainerSummaryStateEnum as Docker;
        let podmans = ["configured", "initialized", "created", "running", "paused", "stopping", "stopped", "exited"];
        let dockers = [
            Docker::CREATED,
            Docker::CREATED,
            Docker::CREATED,
            Docker::RUNNING,
            Docker::PAUSED,
            Docker::RUNNING,
            Docker::EXITED,
            Docker::EXITED,
        ];
        assert_eq!(listed(&podmans).unwrap(), dockers);
    }

    #[test]
    fn a_list_in_dockers_own_words_is_left_as_it_is() {
        use ContainerSummaryStateEnum as Docker;
        let dockers = [Docker::STOPPING, Docker::REMOVING, Docker::DEAD];
        assert_eq!(listed(&["stopping", "removing", "dead"]).unwrap(), dockers);
    }

    #[test]
    fn a_single_container_is_read_so_too() {
        let body = json!({"Id": "c", "State": {"Status": "stopped", "ExitCode": 3}});
        let found = understand(answer::<ContainerInspectResponse>(&body), translate_container);
        let state = found.unwrap().state.unwrap();
        assert_eq!((state.status, state.exit_code), (Some(ContainerStateStatusEnum::EXITED), Some(3)));
    }

    #[test]
    fn what_nobody_knows_stays_an_error() {
        let error = listed(&["running", "levitating"]).unwrap_err();
        assert!(error.to_string().contains("levitating"), "{error}");
        let error = understand(answer::<Vec<ContainerSummary>>(&json!("no list")), translate_list).unwrap_err();
        assert!(error.to_string().contains("invalid type"), "{error}");
    }
}
