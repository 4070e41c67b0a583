//! Reads `CLIENT LIST`: one line for each connection, `id=3 addr=… name=herald:feed … omem=20504 …`.

/// Id and output buffer, in bytes, of each connection with this name.
pub(super) fn backlogs(list: &str, name: &str) -> impl Iterator<Item = (u64, u64)> {
    list.lines().filter_map(move |line| {
        let field = |key: &str| {
            line.split(' ').find_map(|field| field.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')))
        };
        (field("name") == Some(name))
            .then(|| Some((field("id")?.parse().ok()?, field("omem")?.parse().ok()?)))
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feeds_are_told_from_others_by_their_name() {
        let list = "id=3 addr=127.0.0.1:1 name=herald:feed age=1 sub=2 obl=0 oll=7 omem=20504 events=r cmd=subscribe\n\
                    id=4 addr=127.0.0.1:2 name=other age=1 omem=9 events=r\n\
                    id=5 addr=127.0.0.1:3 name= age=1 omem=9 events=r\n\
                    id=6 name=herald:feed omem=none\n\
                    id=7 name=herald:feed omem=0\n";
        assert_eq!(backlogs(list, "herald:feed").collect::<Vec<_>>(), [(3, 20_504), (7, 0)]);
    }
}
