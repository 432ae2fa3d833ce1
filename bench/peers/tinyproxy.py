"""tinyproxy (from Debian): https://tinyproxy.github.io/"""

from parts import HOST, version_of, write

NAME = "tinyproxy"


def version():
    return version_of("tinyproxy", "-v")


def configure(bench, setting):
    text = (
        f"Port {setting.port}\nListen {HOST}\nTimeout 600\nMaxClients 10000\nLogLevel Critical\n"
        f'LogFile "/dev/null"\nAllow 127.0.0.0/8\nConnectPort {bench.raw}\n'
    )
    return ["tinyproxy", "-d", "-c", write(f"{setting.directory}/tinyproxy.conf", text)]
