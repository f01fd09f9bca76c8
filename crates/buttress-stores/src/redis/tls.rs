use redis::{Client, ConnectionAddr};

/// Gives rustls its cryptography, where the address needs it and the program has chosen none: the
/// client would panic.
pub(super) fn choose_a_provider(client: &Client) {
    let is_needed = matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
    if is_needed && rustls::crypto::CryptoProvider::get_default().is_none() {
        // Somebody else may have been faster, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}
