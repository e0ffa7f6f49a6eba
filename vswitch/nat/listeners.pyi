class ListenError(OSError):
    host_port: int

class ListenerGroup:
    protocol: str
    count: int
    first_container_port: int
    @property
    def host_ports(self) -> list[int]: ...
    def filenos(self) -> list[int]: ...
    def close(self) -> None: ...

def open_listeners(
    host_ip: str | None, first_host_port: int, count: int, protocol: str, first_container_port: int
) -> ListenerGroup: ...
