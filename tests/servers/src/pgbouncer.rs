use std::ffi::OsStr;

use crate::{
    Postgres,
    process::{Server, find, on_free_port, run},
};

/// A pgbouncer in front of a Postgres: transactions of many clients share few connections, and no
/// prepared statement outlives one.
#[derive(Debug)]
pub struct PgBouncer {
    server: Server,
    port: u16,
}

// ===== impl PgBouncer =====

impl PgBouncer {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If pgbouncer is not installed or does not start.
    #[must_use]
    pub fn start(postgres: &Postgres) -> Self {
        Self::start_with(postgres, &[])
    }

    /// Starts one with these settings too.
    ///
    /// # Panics
    ///
    /// If pgbouncer is not installed or does not start.
    #[must_use]
    pub fn start_with(postgres: &Postgres, settings: &[(&str, &str)]) -> Self {
        on_free_port("pgbouncer", |port| {
            let bouncer = Self { server: Server::new("pgbouncer"), port };
            bouncer.configure(postgres, settings);
            if bouncer.launch() { Ok(bouncer) } else { Err(bouncer.server.log()) }
        })
    }

    fn configure(&self, postgres: &Postgres, settings: &[(&str, &str)]) {
        let (user, password) = (Postgres::USER, Postgres::PASSWORD);
        let users = self.server.write("users", &format!("\"{user}\" \"{password}\"\n"));
        let mut lines = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 5\nmax_client_conn = 500\n\
             server_login_retry = 0\n",
            postgres.port(),
            self.port,
            users.display(),
        );
        // Older ones keep none anyway, and do not know the word.
        if keeps_statements() {
            lines.push_str("max_prepared_statements = 0\n");
        }
        for (name, value) in settings {
            lines.extend([name, " = ", value, "\n"]);
        }
        drop(self.server.write("pgbouncer.ini", &lines));
    }

    fn launch(&self) -> bool {
        let settings = self.server.folder().join("pgbouncer.ini");
        self.server.start(&find("pgbouncer"), &[settings.as_os_str()], || self.answers())
    }

    fn answers(&self) -> bool {
        let (url, psql) = (self.url(), find("psql"));
        run(&psql, &["-XAtq", &url, "-c", "select 1"].map(OsStr::new)).is_ok()
    }

    /// Returns the address of the first database, with user and password.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Returns the address of a database, with user and password.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        let (user, password, port) = (Postgres::USER, Postgres::PASSWORD, self.port);
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}")
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Kills it, which ends every connection, and starts another on the same port.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&self) {
        self.server.stop("KILL");
        assert!(self.launch(), "pgbouncer does not start again:\n{}", self.server.log());
    }

    /// Returns what the server has said.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }
}

/// Returns whether it is 1.21 or newer.
fn keeps_statements() -> bool {
    let said = run(&find("pgbouncer"), &[OsStr::new("--version")]).unwrap_or_default();
    let version = said.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next(), parts.next()) >= (Some(1), Some(21))
}
