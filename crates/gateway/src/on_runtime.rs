//! A service whose work is done on another runtime than its caller's.
//!
//! The management API asks the database and counts; on a worker it would hold up the bytes of every connection there. Bodies
//! of its answers are read where the connection is.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use crate::caller_body::CallerBody;

/// A service on a runtime.
#[derive(Debug, Clone)]
pub(crate) struct OnRuntime<S> {
    pub service: S,
    pub runtime: Handle,
}

impl<S, B> Service<Request<CallerBody>> for OnRuntime<S>
where
    S: Service<Request<CallerBody>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<CallerBody>) -> Self::Future {
        // A caller that goes away ends its request.
        let answering = AbortOnDropHandle::new(self.runtime.spawn(self.service.call(request)));
        Box::pin(async move {
            match answering.await {
                Ok(answer) => answer,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The process ends: there is nobody to answer any more.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }
}
