//! A way to the server that ends at a moment of the test's choice.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Passes everything on, but for commands with a word in them while some are to be lost.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// The port on 127.0.0.1.
    pub(crate) port: u16,
    /// How many commands are yet to be lost on their way to the server.
    pub(crate) before: Arc<AtomicU32>,
    /// How many answers are yet to be lost.
    pub(crate) after: Arc<AtomicU32>,
    word: &'static [u8],
}

impl Proxy {
    /// Starts one before a server on 127.0.0.1; it ends with the runtime.
    pub(crate) async fn to(server: u16, word: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self { port, before: Arc::default(), after: Arc::default(), word };
        let own = proxy.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(own.clone().pass_on(client, server));
            }
        });
        proxy
    }

    async fn pass_on(self, client: TcpStream, server: TcpStream) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        loop {
            tokio::select! {
                piece = piece(&mut from_client) => {
                    let Some(piece) = piece else { return };
                    let is_meant = piece.windows(self.word.len()).any(|found| found == self.word);
                    if is_meant && take_one(&self.before) {
                        return;
                    }
                    to_server.write_all(&piece).await.unwrap();
                    if is_meant && take_one(&self.after) {
                        // The server has done it when it answers; nobody hears it.
                        drop(from_server.read(&mut [0; 1024]).await);
                        return;
                    }
                },
                piece = piece(&mut from_server) => {
                    let Some(piece) = piece else { return };
                    if send(&mut to_client, &piece).await.is_none() {
                        return;
                    }
                },
            }
        }
    }
}

fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// Reads a piece; none at the end.
async fn piece(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut piece = vec![0; 64 << 10];
    let length = from.read(&mut piece).await.ok().filter(|length| *length > 0)?;
    piece.truncate(length);
    Some(piece)
}

async fn send(to: &mut OwnedWriteHalf, piece: &[u8]) -> Option<()> {
    to.write_all(piece).await.ok()
}
