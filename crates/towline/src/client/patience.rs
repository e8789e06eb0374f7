//! Waiting when the server says that there were too many requests, for as long as it says.
//!
//! Only for calls of the management API, which a server that answers 429 has not carried out. What a service's container
//! answers is its own business.

use std::time::Duration;

use reqwest::{Response, StatusCode, header};
use tokio::time::sleep;

/// The longest that one call waits, all its waits together.
const MOST: Duration = Duration::from_secs(120);
/// The shortest wait, so that a server that says 0 is not asked without end.
const LEAST: Duration = Duration::from_secs(1);

/// Tells somebody that a call has to wait. By default nobody.
#[derive(Default)]
pub struct Notice(Option<Box<dyn Fn(String) + Send + Sync>>);

impl Notice {
    /// Tells it this way.
    pub fn new(tell: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// For one call.
    pub(super) const fn patience(&self) -> Patience<'_> {
        Patience { notice: self, left: MOST }
    }
}

/// How long a call can still wait.
pub(super) struct Patience<'n> {
    notice: &'n Notice,
    left: Duration,
}

impl Patience<'_> {
    /// Waits for as long as an answer says, if it is 429 and a call may wait that long. `true` when the call is to be made
    /// again.
    pub(super) async fn has_waited(&mut self, response: &Response) -> bool {
        let Some(wait) = wait_of(response).filter(|wait| *wait <= self.left) else { return false };
        self.left -= wait;
        if let Some(tell) = &self.notice.0 {
            tell(format!("the server takes no more requests for now; trying again in {} s", wait.as_secs()));
        }
        sleep(wait).await;
        true
    }
}

/// How long the answer says to wait, in the form in which our server says it (RFC 9110 §10.2.3, delay-seconds).
fn wait_of(response: &Response) -> Option<Duration> {
    if response.status() != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).max(LEAST))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    fn answer(status: u16, retry_after: Option<&str>) -> Response {
        let mut answer = axum::http::Response::builder().status(status);
        if let Some(text) = retry_after {
            answer = answer.header("retry-after", text);
        }
        answer.body("").unwrap().into()
    }

    /// The status of the last answer, the seconds that it took, and how many answers were needed.
    async fn ask(answers: &[(u16, Option<&'static str>)], notice: &Notice) -> (u16, u64, usize) {
        let (start, mut patience) = (Instant::now(), notice.patience());
        for (index, (status, retry_after)) in answers.iter().enumerate() {
            if !patience.has_waited(&answer(*status, *retry_after)).await {
                return (*status, start.elapsed().as_secs(), index + 1);
            }
        }
        panic!("it waits once more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_as_long_as_it_is_told_and_no_longer_than_two_minutes() {
        let nobody = Notice::default();
        let busy = |seconds| (429, Some(seconds));
        assert_eq!(ask(&[busy("7"), busy("100"), (200, None)], &nobody).await, (200, 107, 3));
        assert_eq!(ask(&[busy("120"), (201, None)], &nobody).await, (201, 120, 2));
        assert_eq!(ask(&[busy("121")], &nobody).await, (429, 0, 1));
        assert_eq!(ask(&[busy("100"), busy("21")], &nobody).await, (429, 100, 2), "together");
        assert_eq!(ask(&[busy("0"), (200, None)], &nobody).await, (200, 1, 2));
        for other in [(429, None), busy("soon"), busy("Wed, 21 Oct 2026 07:28:00 GMT"), (503, Some("1"))] {
            assert_eq!(ask(&[other], &nobody).await, (other.0, 0, 1), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_is_told() {
        let told = Arc::new(Mutex::new(vec![]));
        let teller = Arc::clone(&told);
        let notice = Notice::new(move |text| teller.lock().unwrap().push(text));
        ask(&[(429, Some("9")), (200, None)], &notice).await;
        assert_eq!(*told.lock().unwrap(), ["the server takes no more requests for now; trying again in 9 s"]);
    }
}
