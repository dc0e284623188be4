use std::sync::Arc;

use redb::backends::InMemoryBackend;

use super::*;

/// Pieces of all sorts of lengths, some more than a sector.
fn pieces() -> Vec<Vec<u8>> {
    [1, 100, 484, 485, 1300, 20].iter().zip(1..).map(|(octets, fill)| vec![fill; *octets]).collect()
}

/// What a file holds after a life that wrote these pieces, on top of what it held.
fn lived(octets: &[u8], life: u64, pieces: &[Vec<u8>]) -> (Vec<u8>, usize) {
    let file = Arc::new(file(octets));
    let mut log = Log { file: Box::new(Shared(Arc::clone(&file))), life, at: 0 };
    for piece in pieces {
        assert!(log.takes(piece.len()));
        log.append(piece).unwrap();
    }
    let mut octets = vec![0; CAPACITY];
    file.read(0, &mut octets).unwrap();
    (octets, log.at)
}

fn file(octets: &[u8]) -> InMemoryBackend {
    let file = InMemoryBackend::new();
    file.set_len(octets.len() as u64).unwrap();
    file.write(0, octets).unwrap();
    file
}

fn read(octets: &[u8], life: u64) -> Result<Vec<Vec<u8>>, Unread> {
    Log::read(Box::new(file(octets)), life).map(|(_, pieces)| pieces)
}

#[derive(Debug)]
struct Shared(Arc<InMemoryBackend>);

impl StorageBackend for Shared {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

/// How many of the pieces end at or before an octet.
fn whole(pieces: &[Vec<u8>], cut: usize) -> usize {
    let mut at = 0;
    pieces
        .iter()
        .take_while(|piece| {
            let end = at + HEAD + piece.len();
            at += framed(piece.len());
            end <= cut
        })
        .count()
}

#[test]
fn cut_at_any_octet_it_holds_what_was_whole_and_nothing_of_an_older_life() {
    // The older life's frames are longer than, and stand at the places of, this one's.
    let (older, _) = lived(&vec![0; CAPACITY], 6, &vec![vec![9; 100]; 40]);
    let pieces = pieces();
    for before in [&vec![0; CAPACITY], &older] {
        let (now, end) = lived(before, 7, &pieces);
        assert_eq!(read(&now, 7).unwrap(), pieces);
        for cut in 0..=end {
            let octets = [&now[..cut], &before[cut..]].concat();
            assert_eq!(read(&octets, 7).unwrap(), pieces[..whole(&pieces, cut)], "{cut}");
        }
    }
}

#[test]
fn an_octet_that_changed_in_its_middle_is_named_and_at_its_end_was_never_acknowledged() {
    let pieces = pieces();
    let (good, _) = lived(&vec![0; CAPACITY], 7, &pieces);
    let mut at = 0;
    for (number, piece) in pieces.iter().enumerate() {
        for octet in 0..framed(piece.len()) {
            let mut octets = good.clone();
            octets[at + octet] ^= 0x10;
            let found = read(&octets, 7);
            if octet >= HEAD + piece.len() {
                assert_eq!(found.unwrap(), pieces, "{number} {octet}");
            } else if number + 1 < pieces.len() {
                assert!(matches!(found, Err(Unread::Damaged(_))), "{number} {octet}");
            } else {
                assert_eq!(found.unwrap(), pieces[..number], "{number} {octet}");
            }
        }
        at += framed(piece.len());
    }
}

#[test]
fn what_is_read_is_gone_on_with_where_it_ends() {
    let (octets, end) = lived(&vec![0; CAPACITY], 7, &pieces());
    let (mut log, _) = Log::read(Box::new(file(&octets)), 7).unwrap();
    assert_eq!((log.at, log.life()), (end, 7));
    assert!(log.takes(CAPACITY - end - HEAD) && !log.takes(CAPACITY - end - HEAD + 1));
    log.begin(8);
    assert!(log.takes(CAPACITY - HEAD));
    log.append(&[1]).unwrap();
    let (_, pieces) = Log::read(log.file, 8).unwrap();
    assert_eq!(pieces, [[1]]);
}
