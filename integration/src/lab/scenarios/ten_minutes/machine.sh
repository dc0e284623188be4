# A gateway's own files, on the host's read-only ones.
set -e
own=/mnt/lab/ten/$NODE
mkdir -p "$own/etc" "$own/source/target/release" "$own/shims"
cp -a /etc/. "$own/etc/"
mount --bind "$own/etc" /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /usr/local/bin
install -d /etc/systemd/system
ln -s "$SOURCE/packaging" "$own/source/packaging"
for program in cxtpd cxtpctl cxtp-linux; do
    ln -s "/mnt/lab/bin/$program" "$own/source/target/release/$program"
done
ln -s "$SOURCE/integration/src/lab/scenarios/ten_minutes/systemctl.sh" "$own/shims/systemctl"
# Installed and built already.
ln -s /bin/true "$own/shims/apt-get"
ln -s /bin/true "$own/shims/cargo"
echo ready
exec sleep infinity
