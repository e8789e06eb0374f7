//! What sessions and carriers run on.

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection: a TCP or TLS stream, an upgraded HTTP connection, a pipe in a test.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}
