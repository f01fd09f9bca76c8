use redis::{Client, ConnectionAddr};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

/// Gives rustls its cryptography, where the address needs it and the program has chosen none: the
/// client would panic.
pub(super) fn choose_a_provider(client: &Client) {
    let is_needed = matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
    if is_needed && CryptoProvider::get_default().is_none() {
        // Somebody else may have been faster, which is as good.
        drop(ring::default_provider().install_default());
    }
}
