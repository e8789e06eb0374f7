//! The one TLS provider of the process: rustls with ring.

/// Makes ring the provider of everything in this process. Later calls change nothing.
pub fn install() {
    // An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
