//! Connections encrypted by rustls, and through a pool of the user's own.

use std::sync::Arc;

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Put, StoreErrorKind, WorkflowId};
use buttress_stores::{
    PostgresStore,
    postgres::deadpool_postgres::{Manager, Pool},
};
use buttress_test_servers::Postgres;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::servers::{POSTGRES, fresh_prefix};

fn trusting(certificate: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

async fn puts(store: PostgresStore) {
    let key = CheckpointKey::new(WorkflowId::new("put").unwrap());
    store.put(Put::new(key.clone(), None, vec![7; 1 << 20])).await.unwrap();
    assert_eq!(store.latest(&key).await.unwrap().unwrap().state[..], vec![7; 1 << 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_encrypted_where_asked_for_and_the_server_is_verified() {
    let server = Postgres::start_with_tls();
    for host in ["127.0.0.1", "localhost"] {
        let url = server.url().replace("127.0.0.1", host);
        let builder = || PostgresStore::builder(&url).pool_size(1).table_prefix(fresh_prefix());
        let store = builder().tls(trusting(&server.certificate())).connect().await.unwrap();
        puts(store.clone()).await;
        let encrypted = "select ssl from pg_stat_ssl join pg_stat_activity using (pid)
            where application_name = 'buttress'";
        assert_eq!(server.sql(encrypted), "t");
        drop(store);

        let unknown = PostgresStore::connect(&(url.clone() + "?sslmode=require")).await;
        let error = unknown.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Setup { .. }), "{error:?}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(!format!("{error:?}").contains(Postgres::PASSWORD));
    }
    let plain = PostgresStore::builder(POSTGRES.url()).tls(trusting(&server.certificate()));
    let error = plain.connect().await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Setup { .. }), "{error:?}");
}

#[tokio::test]
async fn a_pool_of_ones_own_is_used_as_it_is() {
    let config = POSTGRES.url().parse().unwrap();
    let pool = Pool::builder(Manager::new(config, tokio_postgres::NoTls)).max_size(1).build();
    let builder = PostgresStore::with_pool(pool.unwrap()).table_prefix(fresh_prefix());
    puts(builder.connect().await.unwrap()).await;
}
