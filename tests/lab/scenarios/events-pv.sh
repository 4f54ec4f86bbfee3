# like: pv
# event-records: yes
